module tidegate.io/tests/sigstore

go 1.26

tool (
	github.com/google/go-containerregistry/cmd/crane
	github.com/sigstore/cosign/v3/cmd/cosign
	github.com/sigstore/fulcio
	github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix
	github.com/sigstore/timestamp-authority/v2/cmd/timestamp-server
)

require (
	github.com/google/go-containerregistry v0.22.1
	github.com/sigstore/cosign/v3 v3.1.3
	github.com/sigstore/fulcio v1.8.8
	github.com/sigstore/rekor-tiles/v2 v2.3.0
	github.com/sigstore/timestamp-authority/v2 v2.1.2
)
