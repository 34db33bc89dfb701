/** `api.example.com`, `api.example.com:8443`, `[2001:db8::1]`: as a URL has it, without the scheme's own port. */
export const isAllowedHost = (entry: string): boolean => {
  const text = `https://${entry}`;
  return URL.canParse(text) && new URL(text).host === entry;
};

/** Whether a credential may go to that URL: an entry with a port means that port, one without means the scheme's own. */
export const mayReceive = (allowed_hosts: readonly string[], url: string): boolean =>
  URL.canParse(url) && allowed_hosts.includes(new URL(url).host);
