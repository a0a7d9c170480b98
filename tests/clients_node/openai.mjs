import assert from "node:assert/strict";
import OpenAI from "openai";

const model = "simulated-llm";
const messages = [{ role: "user", content: "hello" }];
const weather = {
  name: "weather",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};

export const client = (line) => new Function("OpenAI", `return ${line}`)(OpenAI);

export async function chat(openai) {
  const answer = await openai.chat.completions.create({ model, messages, max_completion_tokens: 5 });
  assert.ok(answer.choices[0].message.content);
  assert.equal(answer.usage.completion_tokens, 5);
}

export async function stream(openai) {
  const wanted = { model, messages, max_completion_tokens: 5, stream: true };
  let text = "";
  for await (const chunk of await openai.chat.completions.create(wanted)) {
    text += chunk.choices[0]?.delta.content ?? "";
  }
  const whole = await openai.chat.completions.create({ ...wanted, stream: false });
  assert.equal(text, whole.choices[0].message.content);
}

export async function tools(openai) {
  const offered = [{ type: "function", function: weather }];
  const answer = await openai.chat.completions.create({
    model,
    messages,
    tools: offered,
    tool_choice: "required",
  });
  const [call] = answer.choices[0].message.tool_calls;
  assert.equal(call.function.name, "weather");
  assert.equal(typeof JSON.parse(call.function.arguments).city, "string");
}

export async function structured_output(openai) {
  const format = { type: "json_schema", json_schema: { name: "weather", schema: weather.parameters } };
  const answer = await openai.chat.completions.parse({ model, messages, response_format: format });
  assert.equal(typeof answer.choices[0].message.parsed.city, "string");
}

export async function responses(openai) {
  const answer = await openai.responses.create({ model, input: "hello" });
  assert.ok(answer.output_text);
}

export async function embeddings(openai) {
  const wanted = { model: "simulated-embedding", input: ["first", "second"] };
  const packed = await openai.embeddings.create(wanted); // The SDK itself asks for base64.
  const plain = await openai.embeddings.create({ ...wanted, encoding_format: "float" });
  packed.data.forEach((item, row) => {
    assert.equal(item.embedding.length, 384);
    item.embedding.forEach((x, i) => assert.ok(Math.abs(x - plain.data[row].embedding[i]) < 1e-6));
  });
}

export async function errors(openai) {
  await assert.rejects(openai.chat.completions.create({ model: "absent", messages }), OpenAI.NotFoundError);
}
