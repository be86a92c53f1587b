-- For wrk: adds one job after the other, none of them twice, and tells in one line what came of it.
-- Arguments: the program of the jobs, a word that makes them differ from those of other runs.

local body = "<?xml version='1.0'?>\n<methodCall>\n<methodName>addjob</methodName>\n<params>\n<param>\n<value><array><data>\n"
    .. "<value><string>%s</string></value>\n<value><string>%s-%d</string></value>\n</data></array></value>\n</param>\n"
    .. "<param>\n<value><int>5</int></value>\n</param>\n</params>\n</methodCall>\n"
local headers = { ["Content-Type"] = "text/xml", ["User-Agent"] = "Python-xmlrpc/3.11" }
local threads = {}

function setup(thread)
    table.insert(threads, thread)
end

function init(arguments)
    program, word, number, refused = arguments[1], arguments[2], 0, 0
end

function request()
    number = number + 1
    return wrk.format("POST", "/RPC2", headers, string.format(body, program, word, number))
end

function response(status, _, answer)
    if status ~= 200 or not (answer:find("<int>0</int>", 1, true) or answer:find("<i4>0</i4>", 1, true)) then
        refused = refused + 1
    end
end

function done(summary, latency)
    local refused = 0
    for _, thread in ipairs(threads) do
        refused = refused + thread:get("refused")
    end
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    io.write(string.format("told %d %d %d %d %d %d\n", summary.requests, summary.duration, refused, failed,
        latency:percentile(50), latency:percentile(95)))
end
