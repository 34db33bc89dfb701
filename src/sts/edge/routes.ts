import { inZone, METADATA_PATHS, metadataOf } from "../../contracts/oauth.ts";
import {
  AUTHORIZATION_PATH,
  BINDINGS_PATH,
  EXCHANGES_PATH,
  INTROSPECTION_PATH,
  JWKS_PATH,
  REVOCATION_PATH,
  REVOCATIONS_PATH,
  STEP_UP_PATH,
  TOKEN_PATH,
} from "../../contracts/sts.ts";
import type { Answer, Arrival, Route } from "../../http/router.ts";
import { Problem } from "../../kernel/problem.ts";
import type { BindingsQuery } from "../../ports/sts.ts";
import { createExchangeBatch } from "./exchange-batch.ts";
import { createGatewayAdmission } from "./gateway-calls.ts";
import type { InquiryEndpoint } from "./inquiry-endpoint.ts";
import { createInquiryForm } from "./inquiry-form.ts";
import type { PublicState } from "./public-state.ts";
import { createStepUpState, type StepUpOptions } from "./step-up.ts";
import { errorBody } from "./token-endpoint.ts";
import { createTokenForm, type TokenFormOptions } from "./token-form.ts";

export type RouteOptions = TokenFormOptions & {
  readonly inquiries: InquiryEndpoint;
  readonly state: PublicState;
  /** `ISSUER_URL`, without a slash at its end. */
  readonly issuer_url: string;
  /** A call that nobody of ours made. */
  readonly onUnauthenticated: (reason: string) => void;
  readonly step_up: StepUpOptions;
};

const NO_STORE = { "cache-control": "no-store" } as const;
/** What is public and the same for everybody, for as long as verifiers keep keys. */
const PUBLIC = { "cache-control": "public, max-age=300, must-revalidate" } as const;

const oneOf = (search: string, name: string): string | undefined => {
  const [value, ...more] = new URLSearchParams(search).getAll(name);
  if (more.length > 0) throw new Problem(400, "invalid_request", `${name} may be sent once only.`);
  return value;
};

/** One of the three ways to ask. */
const bindingsQuery = (search: string): BindingsQuery => {
  const [since, cursor, zone_id] = ["since", "cursor", "zone_id"].map((name) => oneOf(search, name));
  if ([since, cursor, zone_id].filter((one) => one !== undefined).length > 1)
    throw new Problem(400, "invalid_request", "Send one of since, cursor and zone_id.");
  if (cursor !== undefined) return { cursor };
  return zone_id === undefined ? { since } : { zone_id };
};

/** The STS's table of paths. The token endpoint answers in RFC 6749's shape, everything else in the general one. */
export const stsRoutes = (options: RouteOptions): readonly Route[] => {
  const { tokens, state, clock } = options;
  const gateway = createGatewayAdmission(options);

  const jwks = async ({ search }: Arrival): Promise<Answer> => {
    const zone_id = oneOf(search, "zone_id");
    if (zone_id === undefined || zone_id === "")
      throw new Problem(400, "invalid_request", "zone_id is missing: name the zone whose keys you want, as ?zone_id=.");
    const keys = await state.jwks(zone_id);
    if (keys === undefined) throw new Problem(404, "not_found", "There is no such zone, or it has no keys.");
    return { status: 200, headers: PUBLIC, body: keys };
  };

  const metadata = async ({ params: { zone_id = "" } }: Arrival): Promise<Answer> => {
    if (!(await state.hasZone(zone_id))) throw new Problem(404, "not_found", "There is no such zone.");
    return { status: 200, headers: PUBLIC, body: metadataOf(options.issuer_url, zone_id) };
  };

  /** RFC 6749, 4.1.2.1: no redirect, since nobody has registered where to. */
  const authorization = async ({ request_id }: Arrival): Promise<Answer> => {
    const description = "Nobody logs in here by a browser: a client asks the token endpoint, by client_credentials.";
    const body = errorBody("unsupported_response_type", description, "response_type_unsupported", request_id);
    return { status: 400, headers: NO_STORE, body };
  };

  const bindings = async ({ search }: Arrival): Promise<Answer> => {
    const found = await state.bindings(bindingsQuery(search));
    return found === undefined ? { status: 304 } : { status: 200, headers: NO_STORE, body: found };
  };

  const revocations = async ({ search }: Arrival): Promise<Answer> => {
    const found = await state.revocations(oneOf(search, "cursor"));
    return { status: 200, headers: NO_STORE, body: found };
  };

  const token = createTokenForm(options);
  const introspection = createInquiryForm(options, options.inquiries.introspect);
  const revocation = createInquiryForm(options, options.inquiries.revoke);
  const forms = [
    [TOKEN_PATH, token],
    [INTROSPECTION_PATH, introspection],
    [REVOCATION_PATH, revocation],
  ] as const;
  // Without `admit`: keys are for anybody; a form names its client; a challenge's reader brings its token; a batch's signature is over its body.
  return [
    ...forms.map(([path, answer]) => ({ method: "POST", path, answer, direct: true }) as const),
    ...forms.map(([path, answer]) => ({ method: "POST", path: inZone(path), answer }) as const),
    { method: "GET", path: inZone(AUTHORIZATION_PATH), answer: authorization },
    ...METADATA_PATHS.map((path) => ({ method: "GET", path, answer: metadata }) as const),
    { method: "POST", path: EXCHANGES_PATH, answer: createExchangeBatch(tokens, gateway, clock), direct: true },
    { method: "GET", path: JWKS_PATH, answer: jwks },
    { method: "GET", path: STEP_UP_PATH, answer: createStepUpState(options.step_up) },
    { method: "GET", path: BINDINGS_PATH, admit: gateway.admit, answer: bindings },
    { method: "GET", path: REVOCATIONS_PATH, admit: gateway.admit, answer: revocations },
  ];
};
