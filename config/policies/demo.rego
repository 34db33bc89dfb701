# The demo's policy.
#
# An application with the trait "demo-agent" may have any scope of resource://demo. Everything else is refused, with a
# sentence that tells the caller why: an explicit deny wins over whatever the other members of the set say.
package caracal.authz

allowed_resource := "resource://demo"

required_trait := "demo-agent"

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["demo"],
	"diagnostics": ["the demo policy did not allow this call"],
}

result := {
	"decision": "allow",
	"evaluation_status": "complete",
	"determining_policies": ["demo"],
	"diagnostics": [],
} if {
	count(denials) == 0
}

result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["demo"],
	"diagnostics": sort(denials),
} if {
	count(denials) > 0
}

denials contains sprintf("the demo agent may call %s, not %s", [allowed_resource, input.resource.identifier]) if {
	input.resource.identifier != allowed_resource
}

denials contains sprintf("the application lacks the trait %s", [required_trait]) if {
	not required_trait in input.principal.traits
}

denials contains sprintf("%s is not a scope of %s", [scope, input.resource.identifier]) if {
	some scope in input.context.requested_scopes
	not scope in input.resource.scopes
}
