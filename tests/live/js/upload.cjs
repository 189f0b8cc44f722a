// Uploads a file to a slot with tus-js-client; started again, it goes on where it was.
// node upload.cjs FILE SLOT STATE PIECE [OPTIONS AS JSON]
"use strict"

const fs = require("node:fs")
const tus = require("tus-js-client")

const [file, endpoint, state, piece, options = "{}"] = process.argv.slice(2)
const upload = new tus.Upload(fs.createReadStream(file), {
  endpoint,
  chunkSize: Number(piece),
  retryDelays: Array(50).fill(50),
  metadata: { filename: "film.mp4", filetype: "video/mp4" },
  urlStorage: new tus.FileUrlStorage(state),
  onError(error) {
    console.error(String(error))
    process.exit(1)
  },
  onSuccess() {
    process.exit(0)
  },
  ...JSON.parse(options),
})
upload.findPreviousUploads().then((previous) => {
  if (previous.length > 0) upload.resumeFromPreviousUpload(previous[0])
  upload.start()
})
