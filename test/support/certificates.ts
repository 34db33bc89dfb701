import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A certificate authority of a test's own, and a server's certificate by it. PEM files. */
export type TestCertificates = {
  readonly ca_file: string;
  readonly cert_file: string;
  readonly key_file: string;
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
  close(): void;
};

const openssl = (...args: readonly string[]): void => {
  execFileSync("openssl", args, { stdio: ["ignore", "ignore", "pipe"] });
};

/** A CA, and a certificate for `names` (DNS names and IPv4 addresses; `localhost` and 127.0.0.1 by default). */
export const makeCertificates = (names: readonly string[] = ["localhost", "127.0.0.1"]): TestCertificates => {
  const dir = mkdtempSync(join(tmpdir(), "caracal-test-tls-"));
  const at = (name: string): string => join(dir, name);
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  const san = names.map((name) => `${/^[\d.]+$/.test(name) ? "IP" : "DNS"}:${name}`).join(",");
  writeFileSync(
    at("extensions"),
    `subjectAltName=${san}\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n`,
  );
  const ca_extensions = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"];
  openssl(
    "req",
    "-x509",
    ...key,
    "-keyout",
    at("ca.key"),
    "-out",
    at("ca.pem"),
    "-subj",
    "/CN=test CA",
    "-days",
    "2",
    ...ca_extensions,
  );
  openssl("req", "-new", ...key, "-keyout", at("server.key"), "-out", at("server.csr"), "-subj", "/CN=test server");
  const signed_by = ["-CA", at("ca.pem"), "-CAkey", at("ca.key"), "-CAcreateserial"];
  openssl(
    "x509",
    "-req",
    "-in",
    at("server.csr"),
    ...signed_by,
    "-out",
    at("server.pem"),
    "-days",
    "2",
    "-extfile",
    at("extensions"),
  );
  const read = (name: string): string => readFileSync(at(name), "utf8");
  return {
    ca_file: at("ca.pem"),
    cert_file: at("server.pem"),
    key_file: at("server.key"),
    ca: read("ca.pem"),
    cert: read("server.pem"),
    key: read("server.key"),
    close: () => rmSync(dir, { recursive: true, force: true }),
  };
};
