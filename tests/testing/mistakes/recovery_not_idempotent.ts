import { mistake, must, seal, unseal } from "./mistake.ts";

const BALANCE = 0;
const LOG = 8;

interface Balance {
  amount: number;
  applied: number;
}

interface Deposit {
  number: number;
  add: number;
}

export default mistake<number>(
  "Recovery is interrupted, starts again, and does the same twice",
  (right) => ({
    device: { sectors: 16 },
    crashDuringRecovery: true,
    async workload(disk, acknowledge) {
      await disk.write(BALANCE, seal({ amount: 100, applied: 0 }));
      await disk.flush();
      await disk.write(LOG, seal({ number: 1, add: 10 }));
      await disk.flush();
      acknowledge(10);
    },
    async recover(disk, acknowledged) {
      const balance = unseal<Balance>(await disk.read(BALANCE, 1));
      if (balance === null) return must(acknowledged.length === 0, "All gone");
      const deposit = unseal<Deposit>(await disk.read(LOG, 1));
      if (deposit !== null && !(right && balance.applied >= deposit.number)) {
        balance.amount += deposit.add;
        balance.applied = deposit.number;
        await disk.write(BALANCE, seal(balance));
        await disk.flush();
      }
      await disk.writeZeroes(LOG, 1);
      await disk.flush();
      must(balance.amount <= 110, `The balance is ${balance.amount}`);
      must(
        balance.amount === 110 || acknowledged.length === 0,
        "The deposit is gone",
      );
    },
  }),
);
