package controlplane

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// StartAnother starts a second API server of the same cluster, which ends with the context. What it asks of etcd meets faults
// on the way, so that it can be one that lags behind. It returns the kubeconfig of a user of the first one by way of the
// second.
func (cp *ControlPlane) StartAnother(ctx context.Context, kubeconfig string, faults ...Fault) (path string, err error) {
	args, err := cp.arguments(APIServer)
	if err != nil {
		return "", err
	}
	etcd, err := url.Parse(cp.EtcdURL())
	if err != nil {
		return "", err
	}
	address, err := FreeAddress()
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	output, err := os.Create(filepath.Join(cp.Dir, "another-"+APIServer+".log"))
	if err != nil {
		return "", err
	}
	defer output.Close()
	between := newEtcdProxy(etcd, faults)
	// Of two equal flags the last one counts, unless they make a list. Where the API servers are is for the first one to say.
	args = slices.DeleteFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--etcd-servers=") })
	command := exec.Command(filepath.Join(cp.Assets, APIServer), slices.Concat(args, []string{ //nolint:gosec // it is ours
		"--etcd-servers=" + between.URL, "--secure-port=" + port, "--endpoint-reconciler-type=none",
	})...)
	command.Stdout, command.Stderr = output, output
	server, err := StartChild(command)
	if err != nil {
		return "", err
	}
	context.AfterFunc(ctx, func() {
		_ = server.Kill()
		between.Close()
	})
	if path, err = through("https://"+address, kubeconfig, cp.Dir); err != nil {
		return "", err
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return "", err
	}
	starting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return path, awaitReady(starting, config)
}

// newEtcdProxy is one in front of etcd, which speaks gRPC: HTTP/2, here in the clear.
func newEtcdProxy(etcd *url.URL, faults []Fault) *httptest.Server {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	var handler http.Handler = &httputil.ReverseProxy{
		Transport:     &http.Transport{Protocols: &protocols},
		FlushInterval: -1,
		Rewrite:       func(request *httputil.ProxyRequest) { request.SetURL(etcd) },
		ErrorLog:      log.New(io.Discard, "", 0),
	}
	server := httptest.NewUnstartedServer(behind(handler, faults))
	server.Config.Protocols = &protocols
	server.Start()
	return server
}
