# A guard: agents with the trait "read-only" may send only methods that change nothing (RFC 9110, 9.2.1).
#
# It allows nothing by itself. Where it has no objection it is silent (a deny without a word, which counts only if no
# other member of the set allows), so put it beside a policy that does allow.
package caracal.authz

safe_methods := {"GET", "HEAD", "OPTIONS"}

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": [],
	"diagnostics": [],
}

result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["read-only"],
	"diagnostics": [sprintf("a read-only agent may not send %s", [input.action.method])],
} if {
	guarded
	not input.action.method in safe_methods
}

# A mandate that is for any call has no method: whatever it will be used for is not known.
result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["read-only"],
	"diagnostics": ["a read-only agent gets mandates for a call of a known method only"],
} if {
	guarded
	not input.action.method
}

guarded if {
	"read-only" in input.principal.traits
	input.action.use == "per_call"
}
