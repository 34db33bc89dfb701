# Two stages: the first has the compilers, the second only what runs.
FROM node:22-bookworm-slim AS build
WORKDIR /caracal
COPY package.json package-lock.json .npmrc tsconfig.json ./
COPY src src
COPY test test
COPY scripts scripts
COPY migrations migrations
COPY config config
RUN npm ci && npm prune --omit=dev --ignore-scripts && rm -rf dist/test dist/scripts

FROM node:22-bookworm-slim
WORKDIR /caracal
COPY --from=build --chown=root:root /caracal/package.json ./
COPY --from=build --chown=root:root /caracal/node_modules node_modules
COPY --from=build --chown=root:root /caracal/dist dist
COPY --from=build --chown=root:root /caracal/migrations migrations
COPY --from=build --chown=root:root /caracal/config config
# What a process writes: the journal of events that could not be sent. Mount a volume of its own for each replica.
RUN mkdir -m 0700 /var/lib/caracal && chown node:node /var/lib/caracal
ENV CARACAL_DATA_DIR=/var/lib/caracal
USER node
EXPOSE 8080 8081 3000 4000 9090
# Room for what lives as long as one call, so that it is dead when the collector comes: a tenth of the processor's time.
ENTRYPOINT ["node", "--max-semi-space-size=32", "--initial-old-space-size=128", "--enable-source-maps", "dist/src/main.js"]
CMD ["serve", "--role=all"]
