/** Stands in for `jsr:@std/testing/bdd`: see std/README.md. @module */

import * as test from "node:test";

type Body = () => void | Promise<void>;
type Block<T> = (name: string, body: T) => void;

/** Groups tests. */
export const describe: Block<() => void> & {
  only: Block<() => void>;
  skip: Block<() => void>;
} = test.describe;

/** Registers one test. */
export const it: Block<Body> & { only: Block<Body>; skip: Block<Body> } =
  test.it;

/** Runs before all tests of the group. */
export const before: (body: Body) => void = test.before;

/** Runs before all tests of the group. */
export const beforeAll: (body: Body) => void = test.before;

/** Runs after all tests of the group. */
export const after: (body: Body) => void = test.after;

/** Runs after all tests of the group. */
export const afterAll: (body: Body) => void = test.after;

/** Runs before each test of the group. */
export const beforeEach: (body: Body) => void = test.beforeEach;

/** Runs after each test of the group. */
export const afterEach: (body: Body) => void = test.afterEach;
