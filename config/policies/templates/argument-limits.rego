# A guard: agents with the trait "limited-arguments" call tools within limits of their arguments.
#
# `limits` names the tools that they may call, and the largest number and the values that an argument may have. A call whose
# tool or arguments are not known (`action.tool`, `action.arguments`) is refused: what is not seen is within no limit.
#
# It allows nothing by itself. Where it has no objection it is silent (a deny without a word, which counts only if no
# other member of the set allows), so put it beside a policy that does allow.
package caracal.authz

# Put in your own tools. An argument that is not named here is not limited.
limits := {
	"transfer": {
		"amount": {"at_most": 100},
		"currency": {"one_of": ["EUR", "USD"]},
	},
	"search": {},
}

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": [],
	"diagnostics": [],
}

result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["argument-limits"],
	"diagnostics": sort(objections),
} if {
	count(objections) > 0
}

guarded if {
	"limited-arguments" in input.principal.traits
	input.action.use == "per_call"
}

objections contains "the tool and its arguments are not known" if {
	guarded
	not known
}

known if {
	is_string(input.action.tool)
	is_object(input.action.arguments)
}

objections contains sprintf("the tool %s is not one that may be called", [input.action.tool]) if {
	guarded
	known
	not limits[input.action.tool]
}

objections contains sprintf("%s must be a number from 0 to %v", [name, limit.at_most]) if {
	guarded
	known
	some name, limit in limits[input.action.tool]
	limit.at_most
	not at_most(input.action.arguments, name, limit.at_most)
}

objections contains sprintf("%s must be one of %s", [name, concat(", ", limit.one_of)]) if {
	guarded
	known
	some name, limit in limits[input.action.tool]
	limit.one_of
	not one_of(input.action.arguments, name, limit.one_of)
}

at_most(arguments, name, most) if {
	is_number(arguments[name])
	arguments[name] >= 0
	arguments[name] <= most
}

one_of(arguments, name, values) if arguments[name] in values
