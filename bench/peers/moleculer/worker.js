"use strict";
// Adds the two numbers of a task. Settings from the environment: TRANSPORTER, NAMESPACE.

const { ServiceBroker } = require("moleculer");

const broker = new ServiceBroker({
	nodeID: "worker",
	namespace: process.env.NAMESPACE,
	transporter: process.env.TRANSPORTER,
	logLevel: "warn"
});

broker.createService({
	name: "number",
	actions: {
		add: {
			params: { a1: "number", a2: "number" },
			handler(ctx) {
				return { message: "OK", result: String(ctx.params.a1 + ctx.params.a2) };
			}
		}
	}
});

broker.start().catch(error => {
	console.error(error);
	process.exit(1);
});
