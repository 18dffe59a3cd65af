FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETOS TARGETARCH
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY main.go ./
COPY api api
COPY controllers controllers
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -tags no_svg -trimpath -ldflags "-s -w" -o /appisolation .

# Nothing but the binary: it talks to the API server only, whose certificate authority the cluster mounts.
FROM scratch
COPY --from=build /appisolation /appisolation
USER 65532:65532
ENTRYPOINT ["/appisolation"]
