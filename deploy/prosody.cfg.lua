-- Prosody: one of the three ways to use hmac-file-server. Put it into /etc/prosody/conf.d/upload.cfg.lua, with your
-- host names and the Secret of hmac-file-server's config.toml, and restart Prosody.
--
-- The base URL ends with the UploadSubDir and a slash.

-- 1. mod_http_upload_external (package prosody-modules), the usual way. The type of a file is not signed.
Component "upload.example.org" "http_upload_external"
    http_upload_external_base_url = "https://files.example.org/upload/"
    http_upload_external_secret = "put the Secret here"
    http_upload_external_file_size_limit = 1073741824

-- 2. The same with its second protocol, which signs the type too.
Component "upload2.example.org" "http_upload_external"
    http_upload_external_base_url = "https://files.example.org/upload/"
    http_upload_external_secret = "put the Secret here"
    http_upload_external_protocol = "v2"
    http_upload_external_file_size_limit = 1073741824

-- 3. Prosody's own mod_http_file_share with an external store (Prosody 0.12 and newer, no further package).
Component "share.example.org" "http_file_share"
    http_file_share_base_url = "https://files.example.org/upload/"
    http_file_share_secret = "put the Secret here"
    http_file_share_size_limit = 1073741824
    http_file_share_daily_quota = 10737418240
