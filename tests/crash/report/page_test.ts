import {
  assert,
  assertEquals,
  assertLess,
  assertStringIncludes,
} from "@std/assert";
import { reportPage } from "../../../src/crash/report/html.ts";
import { makeReport } from "../../../src/crash/report/make_report.ts";
import type {
  CrashReportData,
  ReportVerdict,
} from "../../../src/crash/report/data.ts";
import type { DoubtfulState } from "../../../src/testing/crash_verdict.ts";
import { LONG, needs, tempDir } from "../../helpers.ts";
import { Browser, CHROMIUM } from "./browser.ts";
import {
  explore,
  LOG,
  LONG_LOG,
  longSubject,
  type Subject,
  withLost,
} from "./found.ts";

/** Reports of all kinds, by name. */
async function reports(): Promise<Record<ReportVerdict, CrashReportData>> {
  const { found, recording } = await explore(LOG);
  const options = {
    commands: [{ role: "run", text: "./log <append> & 'more'" }] as const,
    replay: (token: string) => `platter crash --only ${token}`,
    explain: false,
  };
  const doubt: DoubtfulState = {
    token: "crash1:0000000000:1",
    verdicts: [
      { outcome: "failed", message: "No", output: "one\ntwo" },
      { outcome: "sound" },
    ],
  };
  const none = { ...found, groups: [] };
  const counts = { sound: 0, failed: 0, unstable: 0, unjudged: 0 };
  return {
    failed: withLost(
      await makeReport(
        { ...found, unstable: [doubt], unjudged: [doubt] },
        recording,
        options,
      ),
    ),
    unstable: await makeReport(
      { ...none, unstable: [doubt], counts: { ...counts, unstable: 1 } },
      recording,
      options,
    ),
    unjudged: await makeReport(
      {
        ...none,
        unjudged: [doubt],
        counts: { ...counts, unjudged: found.report.states },
      },
      recording,
      options,
    ),
    unfinished: await makeReport(
      { ...none, seenEachGroup: false, counts },
      recording,
      options,
    ),
    safe: await makeReport(
      { ...none, report: { ...found.report, exhaustive: true }, counts },
      recording,
      options,
    ),
  };
}

/** A report of a long recording. */
async function large(subject: Subject): Promise<CrashReportData> {
  const { found, recording } = await explore(subject);
  return await makeReport(found, recording, { explain: false });
}

Deno.test("reportPage() tells the failure, and what was lost, before anything else", async () => {
  const { failed } = await reports();
  const page = reportPage(failed);
  const order = [
    "A power cut breaks it",
    "The simplest failure",
    "What is lost",
    "inode 12 › /var/lib/log/count",
    "What was done",
    'class="bad">LOST',
    "The power fails",
    "See it again",
    failed.groups[0]!.token,
    "All failures",
    "The whole recording",
  ].map((text) => page.indexOf(text));
  assertEquals(order, order.toSorted((a, b) => a - b));
  assert(order[0]! > 0);
});

Deno.test("reportPage() claims no share of states that fail where none does", async () => {
  const pageOf = async (subject: Subject) => {
    const { found, recording } = await explore(subject);
    const options = { commands: [], replay: (token: string) => token };
    return reportPage(
      await makeReport(found, recording, { ...options, explain: false }),
    );
  };
  const label = "share of states that fail: ";
  assertStringIncludes(await pageOf(LOG), `${label}full height: `);
  assertStringIncludes(
    await pageOf({ ...LOG, check: () => Promise.resolve() }),
    `${label}none failed"`,
  );
});

Deno.test("reportPage() is one file without a script that names no other file", async () => {
  for (const data of Object.values(await reports())) {
    const page = reportPage(data);
    assert(
      !/<script|\bon\w+=|<link (?!rel="icon" href="data:,")|<img|@import/i.test(
        page,
      ),
    );
    assert(!/\b(?:src|href)="(?!data:,")|https?:|url\((?!#)/.test(page));
    assertStringIncludes(page, "default-src &#39;none&#39;");
  }
});

Deno.test("reportPage() shows text from elsewhere as text", async () => {
  const { found, recording } = await explore(LOG);
  const evil = "<script>alert(1)</script>\u202e\u001b[2J\u001b[31m & \"'";
  const lost = {
    ranges: [{ sector: 1, count: 1, path: [evil] }],
    notes: [evil],
  };
  const data = await makeReport(
    {
      ...found,
      groups: found.groups.map((group) => ({
        ...group,
        kind: evil,
        message: evil,
        output: evil,
        story: {
          ...group.story,
          error: [evil],
          acknowledged: { count: 1, last: [evil] },
        },
      })),
    },
    recording,
    {
      commands: [{ role: "check", text: evil }],
      replay: () => evil,
      explain: false,
    },
  );
  const page = reportPage({
    ...data,
    groups: data.groups.map((group) => ({ ...group, lost })),
  });
  assert(!page.includes("<script"));
  assertStringIncludes(page, "&lt;script&gt;alert(1)&lt;/script&gt;");
});

Deno.test("reportPage() of a long recording is small", async () => {
  const data = await large(LONG ? longSubject(100_000) : LONG_LOG);
  assertEquals(data.verdict, "failed");
  const page = reportPage(data);
  assertLess(page.length, 300_000);
  assertLess(JSON.stringify(data).length, 300_000);
  assertEquals(data.timeline.columns, 160);
});

/** How pages are looked at: in pixels, with the scrollbar. */
const VIEWS = [
  [360, "light"],
  [1200, "dark"],
  [360, "dark"],
  [1200, "light"],
] as const;

/** In the page: what would be wrong with it for a reader. */
const FAULTS = `(() => {
  const faults = [];
  const { scrollWidth, clientWidth } = document.documentElement;
  if (scrollWidth > clientWidth) faults.push("wide: " + scrollWidth + " > " + clientWidth);
  const channels = (color) => {
    const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
    return { r, g, b, a };
  };
  const light = ({ r, g, b }) => {
    const [R, G, B] = [r, g, b].map((value) => {
      const c = value / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * R + 0.7152 * G + 0.0722 * B;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = channels(getComputedStyle(each).backgroundColor);
      if (color.a === 1) return color;
      if (color.a > 0) faults.push("translucent: " + each.className);
    }
    return channels(getComputedStyle(document.documentElement).backgroundColor);
  };
  for (const details of document.querySelectorAll("details")) details.open = true;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim();
    const element = walker.currentNode.parentElement;
    if (text === "" || element.closest("title, style, desc")) continue;
    const style = getComputedStyle(element);
    const color = channels(element.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(color), light(behind(element))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    seen++;
    if (contrast < 4.5) faults.push(contrast.toFixed(2) + ": " + text.slice(0, 40));
    if (parseFloat(style.fontSize) < 11) faults.push("small: " + text.slice(0, 40));
  }
  if (seen < 30) faults.push("only " + seen + " texts");
  return faults;
})()`;

Deno.test(
  "a report's page is fit to be read in a browser, wide and narrow, light and dark",
  needs(CHROMIUM ?? "chromium"),
  async (t) => {
    await using dir = await tempDir();
    await using browser = await Browser.start();
    const all = { ...await reports(), long: await large(LONG_LOG) };
    let turn = 0;
    for (const [name, data] of Object.entries(all)) {
      const path = dir.join(`${name}.html`);
      await Deno.writeTextFile(path, reportPage(data));
      const views = name === "failed" || LONG ? VIEWS : [VIEWS[turn++ % 4]!];
      for (const [width, scheme] of views) {
        await t.step(`${name}, ${width} pixels, ${scheme}`, async () => {
          const page = await browser.open(path, { width, height: 800, scheme });
          assertEquals(await page.evaluate(FAULTS), []);
          assertEquals(page.complaints, []);
          assertStringIncludes(
            await page.evaluate<string>("document.title"),
            "crash report",
          );
          const dark = await page.evaluate<boolean>(
            `/^rgb\\((\\d\\d?), /.test(getComputedStyle(document.body).backgroundColor)`,
          );
          assertEquals(dark, scheme === "dark");
        });
      }
    }
    await t.step("what is not fit is found", async () => {
      const page = await browser.open(dir.join("failed.html"), {
        width: 360,
        height: 800,
        scheme: "light",
      });
      await page.evaluate(`
      document.body.append(Object.assign(document.createElement("p"), {
        textContent: "pale",
        style: "color: #888; background: #fff; width: 400px; font-size: 9px",
      }));
      console.error("wrong")`);
      const faults = await page.evaluate<string[]>(FAULTS);
      assertEquals(
        faults.map((fault) => fault.replace(/^wide: 4\d\d > 3\d\d$/, "wide")),
        ["wide", "3.54: pale", "small: pale"],
      );
      assertEquals(page.complaints.length, 1);
    });
    await t.step("on paper", async () => {
      const page = await browser.open(dir.join("failed.html"), {
        width: 720,
        height: 1000,
        scheme: "dark",
        media: "print",
      });
      assertEquals(page.complaints, []);
      assertEquals(
        await page.evaluate("document.documentElement.scrollWidth <= 720"),
        true,
      );
    });
  },
);
