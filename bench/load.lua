-- What wrk sends: uploads by signed paths when BENCH_PATHS and BENCH_BODY are set, downloads of these paths when only
-- BENCH_PATHS is, else GETs of the URL. Each thread takes the paths of its own file (BENCH_PATHS.<thread>) one after the
-- other: uploads once, downloads again and again.

local paths_base, body_file = os.getenv("BENCH_PATHS"), os.getenv("BENCH_BODY")
local threads = 0

function setup(thread)
   thread:set("number", threads)
   threads = threads + 1
end

if paths_base and not body_file then
   local requests, last = {}, 0

   function init()
      for path in assert(io.lines(paths_base .. "." .. number)) do
         requests[#requests + 1] = "GET " .. path .. " HTTP/1.1\r\nHost: bench\r\n\r\n"
      end
   end

   function request()
      last = last % #requests + 1
      return requests[last]
   end
elseif paths_base then
   local paths, tail

   function init()
      paths = assert(io.open(paths_base .. "." .. number, "r"))
      local file = assert(io.open(body_file, "rb"))
      local body = file:read("*a")
      file:close()
      tail = " HTTP/1.1\r\nHost: bench\r\nContent-Type: image/jpeg\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
   end

   function request()
      return "PUT " .. assert(paths:read("*l"), "the list of paths is too short") .. tail
   end
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '\nRESULT {"requests": %d, "bytes": %d, "microseconds": %d, "refused": %d, "broken": %d, "p50": %d, "p99": %d}\n',
      summary.requests, summary.bytes, summary.duration, errors.status,
      errors.connect + errors.read + errors.write + errors.timeout,
      latency:percentile(50), latency:percentile(99)))
end
