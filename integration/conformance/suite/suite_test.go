// Package suite runs the Gateway API's own conformance tests, the ones for a mesh. `cargo xtask conformance` builds it,
// passes the official flags and counts what it tells.
//
// It adds nothing to the tests and leaves nothing out; claims are flags, in xtask/src/conformance.rs.
package suite

import (
	"fmt"
	"slices"
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

func TestGatewayAPI(t *testing.T) {
	options := conformance.DefaultOptions(t)
	options.Hook = tell
	conformance.RunConformanceWithOptions(t, options)
}

// tell says in one line what came of a test: the official report leaves out tests whose features no mesh profile has.
func tell(t *testing.T, test suite.ConformanceTest, _ *suite.ConformanceTestSuite) {
	if !slices.Contains(test.Features, features.SupportMesh) {
		return // for gateways: skipped, as no gateway is claimed
	}
	outcome := "passed"
	switch {
	case t.Failed():
		outcome = "failed"
	case t.Skipped():
		outcome = "skipped"
	}
	fmt.Printf("\nconformance: %s %s\n", outcome, test.ShortName)
}
