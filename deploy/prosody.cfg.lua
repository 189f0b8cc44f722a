-- Prosody: three ways to use hmac-file-server. Keep one of the Components, with your host names and the Secret of
-- hmac-file-server's config.toml, as /etc/prosody/conf.d/upload.cfg.lua, and restart Prosody.
--
-- The base URL ends with the UploadSubDir and a slash. Sizes are in bytes and at most the UploadMaxSize; Prosody's own
-- limits are much lower where they are left out.
--
-- Clients of example.org find a Component below that name by themselves, and it needs neither a DNS entry nor a
-- certificate. For other hosts name it in their VirtualHost section: disco_items = { { "upload.example.org" } }

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

-- 3. Prosody's own mod_http_file_share with an external store (Prosody 0.12 and newer, no further package). A client
--    has five minutes to begin its upload, and each user a quota for 24 hours.
Component "share.example.org" "http_file_share"
    http_file_share_base_url = "https://files.example.org/upload/"
    http_file_share_secret = "put the Secret here"
    http_file_share_size_limit = 1073741824
    http_file_share_daily_quota = 10737418240
