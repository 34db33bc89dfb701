# A guard: agents with the trait "read-only" may only read.
#
# They may send methods that change nothing (RFC 9110, 9.2.1). A call of a tool is a POST whatever the tool does: where the
# tool is known (`action.tool`), it must be on the list below.
#
# It allows nothing by itself. Where it has no objection it is silent (a deny without a word, which counts only if no
# other member of the set allows), so put it beside a policy that does allow.
package caracal.authz

safe_methods := {"GET", "HEAD", "OPTIONS"}

# Put in the tools that change nothing.
reading_tools := {"search", "read", "list"}

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": [],
	"diagnostics": [],
}

result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["read-only-tools"],
	"diagnostics": [objection],
}

# A mandate that is for any call has no method: whatever it will be used for is not known.
objection := "a read-only agent gets mandates for a call of a known method only" if {
	guarded
	not input.action.method
}

objection := sprintf("a read-only agent may not send %s", [input.action.method]) if {
	guarded
	input.action.method
	not input.action.tool
	not input.action.method in safe_methods
}

objection := sprintf("a read-only agent may not call the tool %s", [input.action.tool]) if {
	guarded
	input.action.method
	not input.action.tool in reading_tools
	input.action.tool
}

guarded if {
	"read-only" in input.principal.traits
	input.action.use == "per_call"
}
