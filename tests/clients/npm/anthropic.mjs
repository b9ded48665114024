// What the @anthropic-ai/sdk package gets from the gateway, told by its two variables.
import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { Capital, refused, report, schema, weather } from "./shared.mjs";

const client = new Anthropic({ maxRetries: 0 });
const messages = [{ role: "user", content: "Where?" }];
const asked = { model: "auto", max_tokens: 100, messages };
const tools = [{ name: "weather", description: weather, input_schema: schema }];
const told = (made) => ({
  text: made.content.map((block) => block.text).join(""),
  reason: made.stop_reason,
  tokens: made.usage.input_tokens + made.usage.output_tokens,
});

await report({
  async chat() {
    return told(await client.messages.create(asked));
  },
  async stream() {
    const stream = client.messages.stream(asked);
    let text = "";
    stream.on("text", (delta) => (text += delta));
    return { ...told(await stream.finalMessage()), text };
  },
  async tools() {
    const called = await client.messages.create({ ...asked, tools });
    const use = called.content.find((block) => block.type === "tool_use");
    const result = { type: "tool_result", tool_use_id: use.id, content: `sunny in ${use.input.city}` };
    const history = [...messages, { role: "assistant", content: called.content }, { role: "user", content: [result] }];
    return told(await client.messages.create({ ...asked, tools, messages: history })).text;
  },
  async schema() {
    const made = await client.messages.parse({ ...asked, output_config: { format: zodOutputFormat(Capital) } });
    return made.parsed_output;
  },
  async counted() {
    return (await client.messages.countTokens({ model: "auto", messages })).input_tokens;
  },
  async unknownModel() {
    return await refused(client.messages.create({ ...asked, model: "no-such-model" }));
  },
  async wrongKey() {
    return await refused(client.withOptions({ apiKey: "wrong" }).models.list());
  },
  async vendorFails() {
    return await refused(client.messages.create(asked));
  },
});
