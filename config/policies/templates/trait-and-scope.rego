# Allows applications by trait, resource and scope.
#
# Each entry of `grants` gives the applications that have a trait some scopes of a resource; the scopes of all of an
# application's traits add up. A request for more is refused, and the refusal names the scopes that are missing.
# Put in your own table.
package caracal.authz

grants := [
	{"trait": "support-agent", "resource": "resource://tickets", "scopes": ["tickets.read", "tickets.comment"]},
	{"trait": "support-lead", "resource": "resource://tickets", "scopes": ["tickets.close"]},
	{"trait": "billing-agent", "resource": "resource://payments", "scopes": ["payments.read"]},
]

granted contains scope if {
	some grant in grants
	grant.resource == input.resource.identifier
	grant.trait in input.principal.traits
	some scope in grant.scopes
}

missing contains scope if {
	some scope in input.context.requested_scopes
	not scope in granted
}

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["trait-and-scope"],
	"diagnostics": ["no trait of the application gives it anything on this resource"],
}

result := {
	"decision": "allow",
	"evaluation_status": "complete",
	"determining_policies": ["trait-and-scope"],
	"diagnostics": [],
} if {
	count(granted) > 0
	count(missing) == 0
}

result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["trait-and-scope"],
	"diagnostics": [sprintf("not granted on %s: %s", [input.resource.identifier, concat(" ", sort(missing))])],
} if {
	count(granted) > 0
	count(missing) > 0
}
