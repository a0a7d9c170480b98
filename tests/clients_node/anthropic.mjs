import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const wanted = {
  model: "simulated-llm",
  max_tokens: 5,
  messages: [{ role: "user", content: "hello" }],
};

export const client = (line) => new Function("Anthropic", `return ${line}`)(Anthropic);

export async function messages(anthropic) {
  const answer = await anthropic.messages.create(wanted);
  assert.ok(answer.content[0].text);
  assert.equal(answer.usage.output_tokens, 5);
}

export async function stream(anthropic) {
  const streamed = anthropic.messages.stream(wanted);
  let text = "";
  streamed.on("text", (piece) => (text += piece));
  const final = await streamed.finalMessage();
  assert.equal(text, final.content[0].text);
  assert.ok(text);
}

export async function count_tokens(anthropic) {
  const { model, messages } = wanted;
  assert.ok((await anthropic.messages.countTokens({ model, messages })).input_tokens > 0);
}

export async function errors(anthropic) {
  const absent = anthropic.messages.create({ ...wanted, model: "absent" });
  await assert.rejects(absent, (error) => {
    assert.ok(error instanceof Anthropic.NotFoundError);
    assert.equal(error.error.error.type, "not_found_error");
    return true;
  });
}
