-- wrk: POST the file named by the first argument, with the second as key; report in exact numbers
-- Where the body says 00000000, each request gets a number of its own.
function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.body = file:read("*a")
  file:close()
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["Authorization"] = "Bearer " .. args[2]
  if wrk.body:find("00000000", 1, true) then
    local template, number = wrk.body, 0
    request = function()
      number = number + 1
      return wrk.format(nil, nil, nil, (template:gsub("00000000", string.format("%08d", number))))
    end
  end
end

function done(summary, latency, requests)
  local e = summary.errors
  print(string.format(
    'RESULT {"requests":%d,"duration_us":%d,"bytes":%d,"status":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d}',
    summary.requests, summary.duration, summary.bytes, e.status, e.connect, e.read, e.write, e.timeout))
end
