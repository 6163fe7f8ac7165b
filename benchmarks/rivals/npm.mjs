// The npm client @huggingface/hub, installed under benchmarks/.work/npm.
import { createRequire } from "node:module";
import { readdirSync } from "node:fs";
import { join, relative } from "node:path";
import { pathToFileURL } from "node:url";

const job = JSON.parse(process.argv[2]);
const began = performance.now();
const require = createRequire(join(import.meta.dirname, "..", ".work", "npm", "package.json"));
const { commit } = await import(pathToFileURL(require.resolve("@huggingface/hub")));
const importSeconds = (performance.now() - began) / 1000;

const files = readdirSync(job.folder, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map((entry) => join(entry.parentPath ?? entry.path, entry.name));
// It names the hash "sha_256", which the public Hub takes and the Git LFS specification does not know.
const send = (url, init) => {
  const body = init?.body;
  const renamed = typeof body === "string" ? body.replace('"sha_256"', '"sha256"') : body;
  return fetch(url, { ...init, body: renamed });
};
const push = (repo, operations) =>
  commit({
    repo: { type: "model", name: repo },
    accessToken: "hf_benchmark",
    hubUrl: job.endpoint,
    title: "benchmark",
    useXet: false,
    fetch: send,
    operations,
  });

const cpu = process.cpuUsage();
const start = performance.now();
await push(
  job.repo,
  files.map((path) => ({
    operation: "addOrUpdate",
    path: relative(job.folder, path),
    content: pathToFileURL(path),
  })),
);
const used = process.cpuUsage(cpu);
console.log(
  JSON.stringify({
    wall: (performance.now() - start) / 1000,
    cpu: (used.user + used.system) / 1e6,
    import_seconds: importSeconds,
    peak_rss: process.resourceUsage().maxRSS * 1024,
  }),
);
process.exit(0);
