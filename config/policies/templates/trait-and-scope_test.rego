package caracal.authz_test

import data.caracal.authz

asks(traits, resource, scopes) := {
	"principal": {"traits": traits},
	"resource": {"identifier": resource},
	"context": {"requested_scopes": scopes},
}

test_a_trait_gives_its_scopes if {
	authz.result.decision == "allow" with input as asks(["support-agent"], "resource://tickets", ["tickets.read"])
}

test_traits_add_up if {
	authz.result.decision == "allow" with input as asks(
		["support-agent", "support-lead"],
		"resource://tickets",
		["tickets.close", "tickets.read"],
	)
}

test_more_is_refused_and_named if {
	result := authz.result with input as asks(["support-agent"], "resource://tickets", ["tickets.close", "tickets.read"])
	result.decision == "deny"
	result.diagnostics == ["not granted on resource://tickets: tickets.close"]
}

test_another_resource_is_refused if {
	authz.result.decision == "deny" with input as asks(["support-agent"], "resource://payments", [])
}

test_no_trait_is_refused if {
	authz.result.decision == "deny" with input as asks([], "resource://tickets", [])
	authz.result.decision == "deny" with input as {}
}
