// Runs each step of a client's script and prints one JSON object: the step's name, and "ok" or what went wrong.
const [script] = process.argv.slice(2);
const { client, ...steps } = await import(script);
const made = client(process.env.CLIENT_LINE);

const results = {};
for (const [name, step] of Object.entries(steps)) {
  try {
    await step(made);
    results[name] = "ok";
  } catch (error) {
    results[name] = error.stack ?? String(error);
  }
}
console.log(JSON.stringify(results));
