// What Vercel's ai package gets from the gateway as an OpenAI-compatible provider.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { Capital, Place, refused, report, weather } from "./shared.mjs";

const at = (apiKey) =>
  createOpenAICompatible({
    name: "gateway",
    baseURL: process.env.OPENAI_BASE_URL,
    apiKey,
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
const gateway = at(process.env.OPENAI_API_KEY);
const asked = { model: gateway("auto"), prompt: "Where?", maxRetries: 0 };
const told = async (made) => ({ reason: await made.finishReason, tokens: (await made.totalUsage).totalTokens });

await report({
  async chat() {
    const made = await generateText(asked);
    return { text: made.text, ...(await told(made)) };
  },
  async stream() {
    const made = streamText(asked);
    let text = "";
    for await (const delta of made.textStream) text += delta;
    return { text, ...(await told(made)) };
  },
  async tools() {
    const execute = async ({ city }) => `sunny in ${city}`;
    const tools = { weather: tool({ description: weather, inputSchema: Place, execute }) };
    return (await generateText({ ...asked, tools, stopWhen: stepCountIs(3) })).text;
  },
  async toolsStream() {
    const execute = async ({ city }) => `sunny in ${city}`;
    const tools = { weather: tool({ description: weather, inputSchema: Place, execute }) };
    return await streamText({ ...asked, tools, stopWhen: stepCountIs(3) }).text;
  },
  async schema() {
    return (await generateText({ ...asked, output: Output.object({ schema: Capital }) })).output;
  },
  async unknownModel() {
    return await refused(generateText({ ...asked, model: gateway("no-such-model") }));
  },
  async wrongKey() {
    return await refused(generateText({ ...asked, model: at("wrong")("auto") }));
  },
  async vendorFails() {
    return await refused(generateText(asked));
  },
});
