"use strict";
// The HTTP edge: moleculer-web, which hands POST /task to whoever offers the action.
// Settings from the environment: PORT, TRANSPORTER (redis://…), NAMESPACE.

const { ServiceBroker } = require("moleculer");
const ApiService = require("moleculer-web");

const broker = new ServiceBroker({
	nodeID: "gateway",
	namespace: process.env.NAMESPACE,
	transporter: process.env.TRANSPORTER,
	logLevel: "warn"
});

broker.createService({
	name: "api",
	mixins: [ApiService],
	settings: {
		ip: "127.0.0.1",
		port: Number(process.env.PORT),
		// Two log lines for each request are the default; ours writes none either.
		logRequest: null,
		logResponse: null,
		routes: [
			{
				path: "/",
				bodyParsers: { json: true },
				aliases: { "POST /task": "number.add" },
				mappingPolicy: "restrict"
			}
		]
	}
});

broker.start().catch(error => {
	console.error(error);
	process.exit(1);
});
