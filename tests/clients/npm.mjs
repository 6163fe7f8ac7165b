// What users of @huggingface/hub do, one call after another.
//
//   node npm.mjs PACKAGE_FOLDER ENDPOINT TOKEN REPO
//
// Prints one JSON object a line: {"call": ..., "value": ...} or {"call": ..., "error": ...}.
import { pathToFileURL } from "node:url";
import { createHash } from "node:crypto";

const [folder, hubUrl, accessToken, name] = process.argv.slice(2);
const hub = await import(pathToFileURL(`${folder}/node_modules/@huggingface/hub/dist/index.mjs`));
const repo = { type: "model", name };
const at = { repo, hubUrl, accessToken };

async function call(title, work) {
  try {
    const value = await work();
    console.log(JSON.stringify({ call: title, value: value === undefined ? null : value }));
    return value;
  } catch (error) {
    const told = `${error.name}: ${error.message}`;
    console.log(JSON.stringify({ call: title, error: told }));
    return undefined;
  }
}

async function all(iterator, pick) {
  const found = [];
  for await (const item of iterator) found.push(pick(item));
  return found;
}

// Binary content that neither repeats nor changes from run to run.
function bytes(seed, count) {
  const pieces = [];
  for (let n = 0; n * 32 < count; n++) {
    pieces.push(createHash("sha256").update(`${seed} ${n}`).digest());
  }
  return Buffer.concat(pieces).subarray(0, count);
}

const file = (path, content) => ({ path, content: new Blob([content]) });
const sha256 = (content) => createHash("sha256").update(content).digest("hex");
const large = bytes("large", 3_000_001);

async function download(path, options = {}) {
  const blob = await hub.downloadFile({ ...at, path, ...options });
  return blob === null ? null : sha256(Buffer.from(await blob.arrayBuffer()));
}

await call("who am I", async () => (await hub.whoAmI({ hubUrl, accessToken })).type);
await call("create", () => hub.createRepo({ ...at, private: false }));
await call("exists", () => hub.repoExists(at));
await call("upload", async () => {
  const files = [
    file("README.md", "---\nlicense: mit\n---\n# Made in JavaScript\n"),
    file("config.json", "{}\n"),
    file("weights/model.safetensors", large),
  ];
  return (await hub.uploadFiles({ ...at, files, commitTitle: "all" })).commit.oid;
});
await call("download xet", async () => (await download("weights/model.safetensors")) === sha256(large));
await call("upload again and more", async () => {
  const files = [file("copy.bin", large), file("other.bin", bytes("other", 70_000))];
  return (await hub.uploadFiles({ ...at, files })).commit.oid;
});
await call("upload by lfs", async () => {
  const files = [file("lfs.bin", bytes("lfs", 2_500_000))];
  return (await hub.uploadFiles({ ...at, files, useXet: false })).commit.oid;
});
await call("download", async () => [
  (await download("copy.bin")) === sha256(large),
  (await download("other.bin")) === sha256(bytes("other", 70_000)),
  (await download("lfs.bin")) === sha256(bytes("lfs", 2_500_000)),
  (await download("config.json")) === sha256("{}\n"),
  (await download("nowhere.json")) === null,
]);
await call("list", () => all(hub.listFiles({ ...at, recursive: true }), (entry) => [entry.path, entry.size]));
await call("list expanded", () =>
  all(hub.listFiles({ ...at, recursive: true, expand: true }), (entry) => entry.lastCommit?.title),
);
await call("paths info", async () =>
  (await hub.pathsInfo({ ...at, paths: ["config.json", "nowhere"], expand: true })).map((entry) => entry.path),
);
await call("file exists", async () => [
  await hub.fileExists({ ...at, path: "config.json" }),
  await hub.fileExists({ ...at, path: "nowhere" }),
]);
await call("commits", () => all(hub.listCommits(at), (commit) => commit.title));
await call("count commits", () => hub.countCommits(at));
await call("model info", async () => (await hub.modelInfo({ name, hubUrl, accessToken })).name);
await call("list models", () =>
  all(
    hub.listModels({ search: { query: name.split("/")[1], owner: name.split("/")[0] }, hubUrl, accessToken }),
    (model) => model.name,
  ),
);
await call("access", () => hub.checkRepoAccess(at));
await call("branch", () => hub.createBranch({ ...at, branch: "dev" }));
await call("commit to branch", async () => {
  const operations = [
    { operation: "addOrUpdate", ...file("dev.txt", "dev\n") },
    { operation: "delete", path: "config.json" },
  ];
  return (await hub.commit({ ...at, branch: "dev", title: "on dev", operations })).commit.oid;
});
await call("delete branch", () => hub.deleteBranch({ ...at, branch: "dev" }));
await call("pull request", async () => {
  const operations = [{ operation: "addOrUpdate", ...file("idea.bin", bytes("idea", 60_000)) }];
  const made = await hub.commit({ ...at, title: "An idea", operations, isPullRequest: true });
  return made.pullRequestUrl;
});
await call("delete files", async () => {
  await hub.deleteFiles({ ...at, paths: ["lfs.bin", "config.json"] });
  return all(hub.listFiles({ ...at, recursive: true }), (entry) => entry.path);
});
await call("a stale parent", async () => {
  const head = (await all(hub.listCommits(at), (commit) => commit.oid))[1];
  const operations = [{ operation: "addOrUpdate", ...file("late.txt", "late\n") }];
  try {
    await hub.commit({ ...at, title: "late", operations, parentCommit: head });
  } catch (error) {
    return error.statusCode;
  }
});
await call("delete repo", () => hub.deleteRepo(at));
await call("exists no more", () => hub.repoExists(at));
