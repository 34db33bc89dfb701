import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { parseForm } from "../../src/sts/edge/form.ts";
import { kindOf, readTokenRequest, type RequestFault, type TokenRequest } from "../../src/sts/edge/request.ts";

type From = { readonly authorization?: readonly string[]; readonly gateway?: boolean; readonly zone_id?: string };

const read = (fields: Readonly<Record<string, string>>, from: From = {}): TokenRequest | RequestFault => {
  const form = parseForm(Buffer.from(new URLSearchParams(fields).toString()));
  assert.ok("one" in form);
  const gateway = from.gateway === true ? ({ kind: "gateway", nonce: undefined } as const) : undefined;
  return readTokenRequest(form, {
    authorization: from.authorization ?? [],
    address: "192.0.2.1",
    gateway,
    zone_id: from.zone_id,
  });
};
const request = (fields: Readonly<Record<string, string>>, from?: From): TokenRequest => {
  const found = read(fields, from);
  assert.ok("caller" in found, JSON.stringify(found));
  return found;
};
const fault = (fields: Readonly<Record<string, string>>, from?: From): RequestFault => {
  const found = read(fields, from);
  assert.ok("status" in found, "the request was read");
  return found;
};
const basic = (id: string, secret: string): string => `Basic ${Buffer.from(`${id}:${secret}`).toString("base64")}`;

const AMBIENT = { grant_type: "client_credentials", zone_id: "z" };
const EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange";

describe("a token request", () => {
  it("takes the client's id and secret from the form, under either name", () => {
    for (const name of ["client_id", "application_id"]) {
      const { caller } = request({ ...AMBIENT, [name]: "app", client_secret: "s" });
      assert.deepEqual(caller, {
        kind: "client",
        client_id: "app",
        proof: { by: "secret", secret: "s" },
        address: "192.0.2.1",
      });
    }
  });

  it("takes them from HTTP Basic, form-encoded before they were joined (RFC 6749, 2.3.1)", () => {
    const { caller } = request(AMBIENT, { authorization: [basic("a%3Ab", "s+%25%C3%A9:x")] });
    assert.deepEqual(caller, {
      kind: "client",
      client_id: "a:b",
      proof: { by: "secret", secret: "s %é:x" },
      address: "192.0.2.1",
    });
  });

  it("refuses a client that authenticates twice, or under two names", () => {
    const authorization = [basic("app", "s")];
    assert.equal(fault({ ...AMBIENT, client_secret: "s" }, { authorization }).reason, "client_authenticates_twice");
    assert.equal(fault({ ...AMBIENT, client_id: "other" }, { authorization }).reason, "client_ambiguous");
    assert.equal(
      fault({ ...AMBIENT, client_id: "a", application_id: "b", client_secret: "s" }).reason,
      "client_ambiguous",
    );
    assert.equal(
      fault(AMBIENT, { authorization: [...authorization, ...authorization] }).reason,
      "authorization_repeated",
    );
    request({ ...AMBIENT, client_id: "app" }, { authorization });
  });

  it("gives 401 to who sends no credentials, or none that can be read", () => {
    const malformed = [
      "Basic",
      "Basic !!",
      `Basic ${Buffer.from("nocolon").toString("base64")}`,
      "Bearer x",
      basic("", "s"),
      basic("%zz", "s"),
      "",
    ];
    const found = [
      fault(AMBIENT),
      fault({ ...AMBIENT, client_id: "app" }),
      fault({ ...AMBIENT, client_secret: "s" }),
      ...malformed.map((header) => fault(AMBIENT, { authorization: [header] })),
    ];
    for (const one of found) {
      assert.deepEqual([one.status, one.error, one.reason], [401, "invalid_client", "client_unauthenticated"]);
    }
  });

  it("takes an assertion of the client that it names, of one type, and of one client alone", () => {
    const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
    const own = `${part({ alg: "ES256" })}.${part({ iss: "app", sub: "app" })}.c2lnbmF0dXJl`;
    const workload = `${part({ alg: "RS256" })}.${part({ iss: "https://issuer.test", sub: "pod" })}.c2lnbmF0dXJl`;
    const client_assertion_type = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    const clientOf = (fields: Readonly<Record<string, string>>) => {
      const { caller } = request({ ...AMBIENT, client_assertion_type, ...fields });
      assert.ok(caller.kind === "client" && caller.proof.by === "assertion");
      return caller.client_id;
    };
    const reasonFor = (fields: Readonly<Record<string, string>>, from?: From) =>
      fault({ ...AMBIENT, client_assertion_type, ...fields }, from).reason;
    assert.equal(clientOf({ client_assertion: own }), "app");
    assert.equal(clientOf({ client_assertion: own, client_id: "app" }), "app");
    assert.equal(clientOf({ client_assertion: workload, application_id: "app" }), "app");
    assert.equal(reasonFor({ client_assertion: workload }), "client_unauthenticated");
    assert.equal(reasonFor({ client_assertion: own, client_id: "other" }), "client_ambiguous");
    assert.equal(reasonFor({ client_assertion: "x", client_id: "app" }), "client_unauthenticated");
    assert.equal(reasonFor({ client_id: "app" }), "client_assertion_missing");
    assert.equal(reasonFor({ client_assertion: own, client_assertion_type: "jwt" }), "client_assertion_type");
    assert.equal(reasonFor({ client_assertion: own, client_assertion_type: "" }), "client_assertion_type");
    assert.equal(reasonFor({ client_assertion: own, client_secret: "s" }), "client_authenticates_twice");
    assert.equal(
      reasonFor({ client_assertion: own }, { authorization: [basic("app", "s")] }),
      "client_authenticates_twice",
    );
    const long = `${part({ alg: "ES256" })}.${part({ iss: "a".repeat(129), sub: "a".repeat(129) })}.c2lnbmF0dXJl`;
    assert.equal(reasonFor({ client_assertion: long }), "client_id_malformed");
  });

  it("names what is missing", () => {
    assert.match(fault({ grant_type: "client_credentials" }).description, /zone_id is missing/);
    assert.match(fault({ zone_id: "z" }).description, /grant_type is missing/);
    assert.equal(fault({ zone_id: "z", grant_type: "password" }).error, "unsupported_grant_type");
  });

  it("is the Gateway's by its signature alone", () => {
    const fields = { zone_id: "z", grant_type: EXCHANGE };
    assert.equal(fault({ ...fields, client_secret: "s" }, { gateway: true }).reason, "client_authenticates_twice");
    assert.equal(
      fault(fields, { gateway: true, authorization: [basic("a", "b")] }).reason,
      "client_authenticates_twice",
    );
    assert.equal(request(fields, { gateway: true }).caller.kind, "gateway");
  });

  it("is for an ambient token where a client sends no subject token, and never where the Gateway asks", () => {
    const client = { zone_id: "z", client_id: "app", client_secret: "s" };
    assert.equal(kindOf(request({ ...client, grant_type: "client_credentials" })), "issue");
    assert.equal(kindOf(request({ ...client, grant_type: EXCHANGE })), "issue");
    assert.equal(kindOf(request({ ...client, grant_type: EXCHANGE, subject_token: "t" })), "exchange");
    for (const grant_type of [EXCHANGE, "client_credentials"]) {
      assert.equal(kindOf(request({ zone_id: "z", grant_type }, { gateway: true })), "exchange");
    }
  });

  it("remembers the fields that can't be served, so that they are refused by name", () => {
    const { unsupported } = request({
      ...AMBIENT,
      client_id: "a",
      client_secret: "s",
      audience: "e",
      state: "?",
    });
    assert.deepEqual(unsupported, ["audience"]);
  });
});
