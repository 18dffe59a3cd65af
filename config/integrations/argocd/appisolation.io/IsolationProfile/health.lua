-- The operator may be away, or may not have seen the last change yet.
if obj.status == nil or obj.status.conditions == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not looked at this profile yet" }
end

local conditions = {}
for _, condition in ipairs(obj.status.conditions) do
  conditions[condition.type] = condition
end
local stalled, ready = conditions["Stalled"], conditions["Ready"]

-- Only somebody who changes something can help.
if stalled ~= nil and stalled.status == "True" then
  return { status = "Degraded", message = stalled.reason .. ": " .. stalled.message }
end
-- The operator goes on by itself. Degraded would fail a sync for an error that may be gone a second later.
if ready == nil then
  return { status = "Progressing", message = "the operator does not say whether it is ready" }
end
if ready.status ~= "True" then
  return { status = "Progressing", message = ready.reason .. ": " .. ready.message }
end
return { status = "Healthy", message = ready.message }
