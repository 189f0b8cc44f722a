-- Metronome: its mod_http_upload_external with a token, which hmac-file-server accepts as `token`. Written after
-- Metronome's documentation; Debian has no package of it, so this one is not tried by our tests.
Component "upload.example.org" "http_upload_external"
    http_upload_external_base_url = "https://files.example.org/upload/"
    http_upload_external_secret = "put the Secret here"
    http_upload_external_file_size_limit = 1073741824
