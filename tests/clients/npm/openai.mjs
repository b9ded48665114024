// What the openai package gets from the gateway, told by its two variables.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { Capital, refused, report, schema, weather } from "./shared.mjs";

const client = new OpenAI({ maxRetries: 0 });
const messages = [{ role: "user", content: "Where?" }];
const asked = { model: "auto", messages };
const tool = { type: "function", function: { name: "weather", description: weather, parameters: schema } };

await report({
  async chat() {
    const made = await client.chat.completions.create(asked);
    return { text: made.choices[0].message.content, reason: made.choices[0].finish_reason, tokens: made.usage.total_tokens };
  },
  async stream() {
    const stream = client.chat.completions.stream({ ...asked, stream_options: { include_usage: true } });
    let text = "";
    for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
    const made = await stream.finalChatCompletion();
    return { text, reason: made.choices[0].finish_reason, tokens: (await stream.totalUsage()).total_tokens };
  },
  async tools() {
    const runner = client.chat.completions.runTools({
      ...asked,
      tools: [{ type: "function", function: { ...tool.function, parse: JSON.parse, function: ({ city }) => `sunny in ${city}` } }],
    });
    return await runner.finalContent();
  },
  async schema() {
    const made = await client.chat.completions.parse({ ...asked, response_format: zodResponseFormat(Capital, "capital") });
    return made.choices[0].message.parsed;
  },
  async responses() {
    const made = await client.responses.create({ model: "auto", input: "Where?" });
    return made.output_text;
  },
  async responsesStream() {
    let text = "";
    for await (const event of client.responses.stream({ model: "auto", input: "Where?" })) {
      if (event.type === "response.output_text.delta") text += event.delta;
    }
    return text;
  },
  async unknownModel() {
    return await refused(client.chat.completions.create({ ...asked, model: "no-such-model" }));
  },
  async wrongKey() {
    return await refused(client.withOptions({ apiKey: "wrong" }).models.list());
  },
  async vendorFails() {
    return await refused(client.chat.completions.create(asked));
  },
});
