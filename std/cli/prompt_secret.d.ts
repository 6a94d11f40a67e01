/** The public signature of `@std/cli/prompt-secret`. */

export interface PromptSecretOptions {
  mask?: string;
  clear?: boolean;
}

export function promptSecret(
  message?: string,
  options?: PromptSecretOptions,
): string | null;
