-- Reads entries: names and values in turn. It is the start of other scripts, and no script by itself.
local function field(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then return fields[i + 1] end
  end
  return ''
end

-- How many bytes an entry has: what a search may look at is counted in them.
local function weight(fields)
  local bytes = 0
  for _, text in ipairs(fields) do bytes = bytes + #text end
  return bytes
end
