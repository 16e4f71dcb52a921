/** An error whose message tells the user in one sentence what is wrong and how to fix it. */
export class Refusal extends Error {}
