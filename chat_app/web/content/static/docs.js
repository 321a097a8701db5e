// Swagger for this service. Everything that is sent gets a new `client_id`, and logging in takes a phone and a password.

// The `client_id` of the examples.
const EXAMPLE = "5b0d3f4e-2c1a-4c8e-9f57-6f1f3a0d9b11";

/** Makes a random UUID. `crypto.randomUUID` is missing on pages that have neither TLS nor a local address. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const digits = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

const shown = newId();

/** Shows the examples with an id of this page. */
function responseInterceptor(response) {
  if (response.url.endsWith("/openapi.json")) response.text = response.text.replaceAll(EXAMPLE, shown);
  return response;
}

/** Replaces the id of the examples by a new one for each request. An id that you typed stays. */
function requestInterceptor(request) {
  if (typeof request.body === "string") request.body = request.body.replaceAll(shown, newId);
  // Behind a proxy with TLS the service may not know the scheme of its address.
  request.url = request.url.replace(/^https?:/, location.protocol);
  return request;
}

/** Replaces the dialog of "Authorize": the login of this service has no client and no scopes. */
function loginPlugin({ React: { createElement: element, useState } }) {
  function Login({ definitions, authActions, authSelectors }) {
    const [fault, setFault] = useState("");
    const [name, schema] = definitions.entrySeq().first();

    async function logIn(event) {
      event.preventDefault();
      const body = new URLSearchParams(new FormData(event.target));
      const answer = await fetch(schema.get("tokenUrl"), { method: "POST", body });
      const content = await answer.json();
      if (!answer.ok) return setFault(content.detail);
      authActions.authorizeOauth2WithPersistOption({ auth: { name, schema }, token: content });
      authActions.showDefinitions(false);
    }

    const button = (text, options) => element("button", { className: "btn modal-btn auth", ...options }, text);
    const close = button("Close", { type: "button", onClick: () => authActions.showDefinitions(false) });
    if (authSelectors.authorized().get(name)) {
      const logOut = button("Log out", { type: "button", onClick: () => authActions.logoutWithPersistOption([name]) });
      return element("div", { className: "auth-container" }, element("h4", null, "You are logged in"), logOut, close);
    }
    const field = (label, options) => element("label", null, label, element("input", { required: true, ...options }));
    return element(
      "form",
      { className: "auth-container", onSubmit: logIn },
      field("Phone", { name: "username", type: "text", inputMode: "tel", autoComplete: "username", autoFocus: true }),
      field("Password", { name: "password", type: "password", autoComplete: "current-password" }),
      element("p", { role: "alert" }, fault),
      button("Log in", { className: "btn modal-btn auth authorize" }),
      close,
    );
  }

  return { wrapComponents: { auths: () => Login } };
}

SwaggerUIBundle({
  url: "../openapi.json",
  dom_id: "#swagger-ui",
  plugins: [loginPlugin],
  requestInterceptor,
  responseInterceptor,
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  filter: true,
  persistAuthorization: true,
  showCommonExtensions: true,
  tryItOutEnabled: true,
});
