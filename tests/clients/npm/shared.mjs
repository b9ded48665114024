// What the scripts share: run the one step that is named on the command line and print its outcome as JSON.
import { z } from "zod";

export const Capital = z.object({ city: z.string(), people: z.number().int() });
export const Place = z.object({ city: z.string() });
export const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
export const weather = "The weather in a city";

/** The error that a call ends with, by its class. */
export async function refused(call) {
  try {
    await call;
  } catch (error) {
    return { name: error.constructor.name, status: error.status ?? error.statusCode, message: error.message };
  }
  throw new Error("It was not refused");
}

/** Run one step of these. */
export async function report(steps) {
  console.log(JSON.stringify(await steps[process.argv[2]]()));
}
