# A guard: authority is handed on so many times, and no further.
#
# The path of a delegation is the edges from the root to the one that authority came through: each is one hop.
#
# It allows nothing by itself. Where it has no objection it is silent (a deny without a word, which counts only if no
# other member of the set allows), so put it beside a policy that does allow.
package caracal.authz

max_hops := 2

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": [],
	"diagnostics": [],
}

result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["delegation-depth"],
	"diagnostics": [sprintf("delegated too far: at most %d hops are allowed", [max_hops])],
} if {
	is_object(input.delegation_edge)
	not near
}

near if {
	is_array(input.delegation_edge.path)
	count(input.delegation_edge.path) <= max_hops
}
