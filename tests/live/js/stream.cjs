// Uploads standard input, whose length nobody knows, with tus-js-client, and fetches what its URL gives then.
// node stream.cjs SLOT PIECE [OPTIONS AS JSON]
"use strict"

const tus = require("tus-js-client")

const [endpoint, piece, options = "{}"] = process.argv.slice(2)
const upload = new tus.Upload(process.stdin, {
  endpoint,
  chunkSize: Number(piece),
  uploadLengthDeferred: true,
  retryDelays: Array(10).fill(50),
  metadata: { filetype: "video/mp4" },
  onError(error) {
    console.error(String(error))
    process.exit(1)
  },
  async onSuccess() {
    const answer = await fetch(upload.url)
    const body = Buffer.from(await answer.arrayBuffer())
    process.stdout.write(`${answer.status} ${answer.headers.get("content-type")}\n`)
    process.stdout.write(body)
  },
  ...JSON.parse(options),
})
upload.start()
