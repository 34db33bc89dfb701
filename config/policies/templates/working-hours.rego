# A guard: agents with the trait "office-hours" may call from Monday to Friday, 07:00 to 19:00 UTC.
#
# It allows nothing by itself. Within the hours it is silent (a deny without a word, which counts only if no other member of
# the set allows), so put it beside a policy that does allow.
package caracal.authz

working_days := {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday"}

first_hour := 7

end_hour := 19

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": [],
	"diagnostics": [],
}

result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["working-hours"],
	"diagnostics": [sprintf("closed: calls are taken from Monday to Friday, %d:00 to %d:00 UTC", [first_hour, end_hour])],
} if {
	"office-hours" in input.principal.traits
	not open
}

open if {
	input.context.time.weekday in working_days
	input.context.time.hour >= first_hour
	input.context.time.hour < end_hour
}
