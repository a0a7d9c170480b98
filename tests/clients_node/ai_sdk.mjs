import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, jsonSchema, Output, streamText, tool } from "ai";

const schema = jsonSchema({
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
});
const common = { prompt: "hello", maxOutputTokens: 50, maxRetries: 0 };

export const client = (line) =>
  new Function("createOpenAICompatible", `return ${line}`)(createOpenAICompatible);

export async function chat(provider) {
  const answer = await generateText({ ...common, model: provider("simulated-llm") });
  assert.ok(answer.text);
  assert.ok(answer.usage.outputTokens > 0);
}

export async function stream(provider) {
  const streamed = streamText({ ...common, model: provider("simulated-llm") });
  let text = "";
  for await (const piece of streamed.textStream) text += piece;
  assert.ok(text);
  assert.equal(await streamed.text, text);
}

export async function tools(provider) {
  const weather = tool({ inputSchema: schema });
  const answer = await generateText({
    ...common,
    model: provider("simulated-llm"),
    tools: { weather },
    toolChoice: "required",
  });
  assert.equal(answer.toolCalls[0].toolName, "weather");
  assert.equal(typeof answer.toolCalls[0].input.city, "string");
}

export async function structured_output(provider) {
  const model = provider("simulated-llm");
  const answer = await generateText({ ...common, model, output: Output.object({ schema }) });
  assert.equal(typeof answer.output.city, "string");
}

export async function embeddings(provider) {
  const model = provider.embeddingModel("simulated-embedding");
  const { embeddings } = await embedMany({ model, values: ["first", "second"] });
  assert.deepEqual(
    embeddings.map((vector) => vector.length),
    [384, 384],
  );
}
