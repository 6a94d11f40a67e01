/**
 * The public signature of `@std/cli/parse-args`, for its untyped npm build.
 * The same options give the same result type, but for two things that are
 * left out: dotted names, and type arguments written out by the caller.
 */

type Names<T> = T | ReadonlyArray<Extract<T, string>>;
type Aliases = { readonly [name: string]: string | ReadonlyArray<string> };
type Simplify<T> = { [Key in keyof T]: T[Key] };

/** What `--no-name` adds to the type of a negatable option. */
type Negated<Key, TNegatable> = Key extends TNegatable ? false : never;

/** What each named option holds, before defaults and aliases. */
type Named<TBooleans, TStrings, TCollectable, TNegatable> =
  & { [Key in Extract<Exclude<TBooleans, TCollectable>, string>]: boolean }
  & { [Key in Extract<TBooleans & TCollectable, string>]: boolean[] }
  & {
    [Key in Extract<Exclude<TStrings, TCollectable>, string>]?:
      | string
      | Negated<Key, TNegatable>;
  }
  & {
    [Key in Extract<TStrings & TCollectable, string>]:
      | string[]
      | Negated<Key, TNegatable>;
  }
  & {
    [Key in Extract<Exclude<TCollectable, TBooleans | TStrings>, string>]:
      | unknown[]
      | Negated<Key, TNegatable>;
  };

/** An option with a default is always there. */
type WithDefaults<TNamed, TDefaults> = TDefaults extends Record<string, unknown>
  ?
    & Omit<TNamed, keyof TDefaults>
    & {
      [Key in keyof TDefaults]: Key extends keyof TNamed
        ? TDefaults[Key] | NonNullable<TNamed[Key]>
        : unknown;
    }
  : TNamed;

/** An alias holds what its option holds. */
type WithAliases<TNamed, TAliases> = {
  [
    Key in keyof TNamed as
      | Key
      | (Key extends keyof TAliases ? AliasOf<TAliases[Key]> : never)
  ]: TNamed[Key];
};

type AliasOf<T> = T extends string ? (string extends T ? never : T)
  : T extends ReadonlyArray<infer U extends string>
    ? (string extends U ? never : U)
  : never;

type Values<
  TBooleans,
  TStrings,
  TCollectable,
  TNegatable,
  TDefaults,
  TAliases,
> = [TBooleans, TStrings, TCollectable] extends
  [false | undefined, undefined, undefined]
  // Nothing is declared, so nothing is known of the result.
  // deno-lint-ignore no-explicit-any
  ? Record<string, any>
  :
    & Record<string, unknown>
    & WithAliases<
      WithDefaults<
        Named<TBooleans, TStrings, TCollectable, TNegatable>,
        TDefaults
      >,
      TAliases
    >;

/** The value returned from `parseArgs`. */
export type Args<
  // deno-lint-ignore no-explicit-any
  TArgs extends Record<string, unknown> = Record<string, any>,
  TDoubleDash extends boolean | undefined = undefined,
> = Simplify<
  & TArgs
  & { _: Array<string | number> }
  & (boolean extends TDoubleDash ? { "--"?: string[] }
    : true extends TDoubleDash ? { "--": string[] }
    : Record<never, never>)
>;

/** The options for the `parseArgs` call. */
export interface ParseOptions<
  TBooleans extends boolean | string | undefined = boolean | string | undefined,
  TStrings extends string | undefined = string | undefined,
  TCollectable extends string | undefined = string | undefined,
  TNegatable extends string | undefined = string | undefined,
  TDefault extends Record<string, unknown> | undefined =
    | Record<string, unknown>
    | undefined,
  TAliases extends Aliases | undefined = Aliases | undefined,
  TDoubleDash extends boolean | undefined = boolean | undefined,
> {
  "--"?: TDoubleDash;
  alias?: TAliases;
  boolean?: Names<TBooleans>;
  default?: TDefault;
  stopEarly?: boolean;
  string?: Names<TStrings>;
  collect?: Names<TCollectable>;
  negatable?: Names<TNegatable>;
  unknown?: (arg: string, key?: string, value?: unknown) => unknown;
}

export function parseArgs<
  TDoubleDash extends boolean | undefined = undefined,
  TBooleans extends boolean | string | undefined = undefined,
  TStrings extends string | undefined = undefined,
  TCollectable extends string | undefined = undefined,
  TNegatable extends string | undefined = undefined,
  TDefaults extends Record<string, unknown> | undefined = undefined,
  const TAliases extends Aliases | undefined = undefined,
>(
  args: string[],
  options?: ParseOptions<
    TBooleans,
    TStrings,
    TCollectable,
    TNegatable,
    TDefaults,
    TAliases,
    TDoubleDash
  >,
): Args<
  Values<
    TBooleans,
    TStrings,
    TCollectable,
    TNegatable,
    TDefaults,
    TAliases
  >,
  TDoubleDash
>;
