-- Ends wrk with one JSON object: what it has counted, its times in seconds.
-- Arguments, if any: the method, and the file with the body, which may be "".
init = function(args)
  if args[1] then
    wrk.method, wrk.body = args[1], ""
    if args[2] ~= "" then
      local file = assert(io.open(args[2], "rb"))
      wrk.body = file:read("*a")
      file:close()
    end
  end
end

done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"result": {"requests": %d, "received": %d, "seconds": %.6f, "mean": %.6f, "p50": %.6f, ' ..
    '"p95": %.6f, "p99": %.6f, "longest": %.6f, "connect": %d, "read": %d, "write": %d, ' ..
    '"status": %d, "timeout": %d}}\n',
    summary.requests, summary.bytes, summary.duration / 1e6, latency.mean / 1e6,
    latency:percentile(50) / 1e6, latency:percentile(95) / 1e6, latency:percentile(99) / 1e6, latency.max / 1e6,
    e.connect, e.read, e.write, e.status, e.timeout))
end
