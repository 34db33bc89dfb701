/** `quickstart.json`: what a program needs to use the demo. `admin_token` is the zone's. */
export type Quickstart = {
  readonly gateway_url: string;
  readonly sts_url: string;
  readonly api_url: string;
  readonly coordinator_url: string;
  readonly audit_url: string;
  readonly zone_id: string;
  readonly application_id: string;
  readonly client_secret: string;
  readonly resource: string;
  readonly denied_resource: string;
  readonly upstream_url: string;
  readonly admin_token: string;
};

/** There while the program of this start serves, and only then. */
export const QUICKSTART_FILE = "quickstart.json";
