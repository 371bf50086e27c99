// Swagger UI on this service's own OpenAPI document. It asks no other host, and so validates nothing elsewhere.
"use strict";

SwaggerUIBundle({ url: "openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null });
