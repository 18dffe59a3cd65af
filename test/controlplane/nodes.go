package controlplane

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// service is the address of the Service "kubernetes", the first of envtest's range. Pods know the API server by it.
var service = net.IPv4(10, 0, 0, 1)

// serveNodes lets nodes and their pods use an API server, and returns the certificate authority of the certificate that
// it shows: envtest's own is for one address only.
func serveNodes(server *envtest.APIServer, address netip.AddrPort) (ca []byte, err error) {
	server.ListenAddr = envtest.ListenAddr{Address: address.Addr().String(), Port: strconv.Itoa(int(address.Port()))}
	ca, key, err := cert.GenerateSelfSignedCertKey(address.Addr().String(), []net.IP{service}, nil)
	if err != nil {
		return nil, err
	}
	args := server.Configure()
	for flag, content := range map[string][]byte{"tls-cert-file": ca, "tls-private-key-file": key} {
		path := filepath.Join(server.CertDir, flag)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return nil, err
		}
		args.Set(flag, path)
	}
	args.Set("authorization-mode", "Node", "RBAC")
	args.Set("enable-admission-plugins", "NodeRestriction")
	args.Set("disable-admission-plugins", "") // envtest's: ServiceAccount
	return ca, nil
}
