/**
 * What all clients of a server together may hold of its memory, so that a
 * thousand of them take no more than a few.
 *
 * Half of the memory is divided: each client has a share that is always its
 * own, so that small requests never wait for others. The other half is lent to
 * who comes first, but to nobody more than is left for the others then: one
 * client gets half of it, two get a third each, and so on (the rule of switches
 * that share their memory among ports: Choudhury and Hahne, "Dynamic queue
 * length thresholds for shared-memory packet switches", 1998). Who gets nothing
 * waits in line, and holds nobody up who waits for nothing but memory: a client
 * gives back what it holds as it takes its answers.
 *
 * One that does not, neither takes answers nor sends what it has announced, or
 * so slowly that it makes no difference, keeps what it holds for as long as
 * nobody waits for memory; then it is sent away.
 *
 * @module
 */

/**
 * What a client must move while others wait for what it holds: so many bytes,
 * and such a part of it.
 */
const LEAST_BYTES = 65_536;
const LEAST_PART = 1 / 16;

/** A client, as far as memory goes. */
export interface MemoryHolder {
  /** Bytes that went over its socket so far, either way. */
  readonly movedBytes: number;
  /** Whether the server waits for it, and not it for the server. */
  readonly isAwaited: boolean;
  /** Called when there may be memory for it. */
  wake(): void;
  /** Called when others wait for what it holds, and it does not move. */
  evict(): void;
}

/** What one client holds. */
export class MemoryAccount {
  /** Whose it is. */
  readonly holder: MemoryHolder;
  /** Bytes that it holds. */
  held = 0;
  /** Bytes that it waits for. */
  wanted = 0;
  /** Bytes that it had moved when it was looked at last. */
  seen = 0;
  /** Looks in a row at which the server waited for it, and nothing moved. */
  idle = 0;

  /**
   * Constructs a new instance.
   *
   * @param holder Whose it is.
   */
  constructor(holder: MemoryHolder) {
    this.holder = holder;
  }
}

/** Looks at clients in the time that one may stand still. */
const LOOKS = 4;

/** The memory of a server. */
export class MemoryBudget {
  readonly #counters: { peakMemory: number };
  readonly #stallMs: number;
  readonly #accounts = new Set<MemoryAccount>();
  /** In the order in which they came. */
  readonly #waiting = new Set<MemoryAccount>();
  #free: number;
  #timer: ReturnType<typeof setTimeout> | null = null;
  #held = 0;
  /** Bytes that are each client's own. */
  readonly share: number;

  /**
   * Constructs a new instance.
   *
   * @param bytes Bytes that all clients together may hold.
   * @param clients Clients that there may be.
   * @param stallMs Milliseconds in which a client must move some of what others
   * wait for.
   * @param counters Told how much is used.
   */
  constructor(
    bytes: number,
    clients: number,
    stallMs: number,
    counters: { peakMemory: number },
  ) {
    this.#counters = counters;
    this.share = Math.floor(bytes / 2 / clients);
    this.#free = bytes - this.share * clients;
    this.#stallMs = stallMs;
  }

  /**
   * Opens an account.
   *
   * @param holder Whose it is.
   * @returns The account, to be closed.
   */
  open(holder: MemoryHolder): MemoryAccount {
    const account = new MemoryAccount(holder);
    this.#accounts.add(account);
    return account;
  }

  /**
   * Closes an account.
   *
   * @param account The account.
   */
  close(account: MemoryAccount): void {
    this.#accounts.delete(account);
    this.leave(account);
    this.hold(account, 0);
  }

  /**
   * Gives a client memory if there is some for it. If not, it is in line from
   * then on, and woken to ask again.
   *
   * @param account The client's account.
   * @param bytes How much.
   * @returns Whether it has it.
   */
  admit(account: MemoryAccount, bytes: number): boolean {
    if (
      this.#fits(account, bytes) &&
      (this.#waiting.size === 0 || !this.#overtakes(account, bytes))
    ) {
      this.hold(account, account.held + bytes);
      if (this.#waiting.size > 0) this.leave(account);
      return true;
    }
    account.wanted = bytes;
    this.#waiting.add(account);
    this.#watch();
    return false;
  }

  /**
   * Leaves the line.
   *
   * @param account The client's account.
   */
  leave(account: MemoryAccount): void {
    if (!this.#waiting.delete(account)) return;
    if (this.#waiting.size > 0) this.#wake();
    else this.#unwatch();
  }

  /**
   * Says what a client holds now: less as it takes its answers, and a little
   * more as small ones are made.
   *
   * @param account The client's account.
   * @param bytes All that it holds.
   */
  hold(account: MemoryAccount, bytes: number): void {
    if (bytes === account.held) return;
    const before = this.#lent(account.held);
    const after = this.#lent(bytes);
    this.#held += bytes - account.held;
    if (this.#held > this.#counters.peakMemory) {
      this.#counters.peakMemory = this.#held;
    }
    account.held = bytes;
    if (before === after) return;
    this.#free += before - after;
    if (after < before && this.#waiting.size > 0) this.#wake();
  }

  /** What of a client's bytes is more than its share. */
  #lent(bytes: number): number {
    return bytes > this.share ? bytes - this.share : 0;
  }

  #fits(account: MemoryAccount, bytes: number): boolean {
    const after = this.#lent(account.held + bytes);
    return after === 0 || after <= this.#free;
  }

  /** Whether somebody has waited for longer, for nothing but memory. */
  #overtakes(account: MemoryAccount, bytes: number): boolean {
    if (this.#lent(account.held + bytes) === 0) return false;
    for (const other of this.#waiting) {
      if (other === account) return false;
      if (this.#lent(other.held) === 0) return true;
    }
    return false;
  }

  #wake(): void {
    for (const account of this.#waiting) {
      if (this.#fits(account, account.wanted)) account.holder.wake();
      else if (this.#lent(account.held) === 0) return;
    }
  }

  #watch(): void {
    if (this.#timer !== null) return;
    // Nobody is to blame for what was before.
    for (const account of this.#accounts) this.#look(account, true);
    this.#timer = setInterval(
      () => {
        for (const account of [...this.#accounts]) this.#look(account, false);
      },
      this.#stallMs / LOOKS,
    );
  }

  #unwatch(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  #look(account: MemoryAccount, first: boolean): void {
    const { holder } = account;
    const moved = holder.movedBytes - account.seen;
    const lent = this.#lent(account.held);
    const idle = !first && holder.isAwaited && lent > 0 &&
      moved < Math.max(LEAST_BYTES, lent * LEAST_PART);
    if (!idle) {
      account.seen = holder.movedBytes;
      account.idle = 0;
      return;
    }
    if (++account.idle < LOOKS) return;
    // Somebody must be in need of it who does not stand still as well.
    for (const other of this.#waiting) {
      if (other !== account && other.idle === 0) return holder.evict();
    }
  }
}
