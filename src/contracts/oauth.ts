import { ALGORITHM_NAMES } from "../domain/jws.ts";
import {
  AUTHORIZATION_PATH,
  GRANT_CLIENT_CREDENTIALS,
  GRANT_TOKEN_EXCHANGE,
  INTROSPECTION_PATH,
  JWKS_PATH,
  REVOCATION_PATH,
  TOKEN_PATH,
} from "./sts.ts";

/** A path of the STS within one zone: stock clients can't send `zone_id`, so the path names the zone for them. */
export const inZone = (path: string, zone_id = "{zone_id}"): string => `/zones/${zone_id}${path}`;

/**
 * Where clients look for the metadata of `ISSUER_URL/zones/{zone_id}`: RFC 8414, 3.1; its fallback for OpenID clients (5);
 * OpenID Connect Discovery 1.0, 4.1. One document at all three.
 */
export const METADATA_PATHS = [
  "/.well-known/oauth-authorization-server/zones/{zone_id}",
  "/.well-known/openid-configuration/zones/{zone_id}",
  "/zones/{zone_id}/.well-known/openid-configuration",
] as const;

/** How a client may authenticate at the token, introspection and revocation endpoints. */
const AUTH_METHODS = ["client_secret_basic", "client_secret_post", "private_key_jwt"] as const;

/** RFC 8414, 2. */
export type AuthorizationServerMetadata = {
  readonly issuer: string;
  /** MCP's clients take no metadata without one. */
  readonly authorization_endpoint: string;
  readonly token_endpoint: string;
  readonly jwks_uri: string;
  readonly grant_types_supported: readonly string[];
  /** None: that endpoint refuses. So there is no authorization response either, which RFC 9207 would have name its issuer. */
  readonly response_types_supported: readonly string[];
  readonly token_endpoint_auth_methods_supported: readonly string[];
  readonly token_endpoint_auth_signing_alg_values_supported: readonly string[];
  readonly introspection_endpoint: string;
  readonly introspection_endpoint_auth_methods_supported: readonly string[];
  readonly introspection_endpoint_auth_signing_alg_values_supported: readonly string[];
  readonly revocation_endpoint: string;
  readonly revocation_endpoint_auth_methods_supported: readonly string[];
  readonly revocation_endpoint_auth_signing_alg_values_supported: readonly string[];
};

/** `issuer_url`: `ISSUER_URL`, without a slash at its end. The issuer is byte-equal to the `iss` of the zone's tokens. */
export const metadataOf = (issuer_url: string, zone_id: string): AuthorizationServerMetadata => {
  const at = (path: string): string => `${issuer_url}${inZone(path, zone_id)}`;
  return {
    issuer: at(""),
    authorization_endpoint: at(AUTHORIZATION_PATH),
    token_endpoint: at(TOKEN_PATH),
    jwks_uri: `${issuer_url}${JWKS_PATH}?zone_id=${zone_id}`,
    grant_types_supported: [GRANT_CLIENT_CREDENTIALS, GRANT_TOKEN_EXCHANGE],
    response_types_supported: [],
    token_endpoint_auth_methods_supported: AUTH_METHODS,
    token_endpoint_auth_signing_alg_values_supported: ALGORITHM_NAMES,
    introspection_endpoint: at(INTROSPECTION_PATH),
    introspection_endpoint_auth_methods_supported: AUTH_METHODS,
    introspection_endpoint_auth_signing_alg_values_supported: ALGORITHM_NAMES,
    revocation_endpoint: at(REVOCATION_PATH),
    revocation_endpoint_auth_methods_supported: AUTH_METHODS,
    revocation_endpoint_auth_signing_alg_values_supported: ALGORITHM_NAMES,
  };
};
