-- Metronome: its mod_http_upload_external signs with `token`, which hmac-file-server takes. Written after Metronome's
-- documentation and source; Debian has no package of it, so that our tests cannot try this one.
--
-- The URL ends with the UploadSubDir and a slash; the limit is in bytes and at most the UploadMaxSize. Leave
-- http_file_external_delete_url out: hmac-file-server deletes nothing on request.
Component "upload.example.org" "http_upload_external"
    http_file_external_url = "https://files.example.org/upload/"
    http_file_secret = "put the Secret here"
    http_file_size_limit = 1073741824
