package controlplane

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"sync/atomic"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Fault is something between a client and the API server.
type Fault func(next http.Handler) http.Handler

// Proxy is one in front of the API server, for clients with one user's rights. Faults can be put into it.
type Proxy struct {
	// Kubeconfig is the path of the user's kubeconfig by way of the proxy.
	Kubeconfig string

	server  *httptest.Server
	forward http.Handler
	handler atomic.Pointer[http.Handler]
}

// NewProxy starts a proxy without a fault for the user of a kubeconfig.
func (cp *ControlPlane) NewProxy(kubeconfig string) (*Proxy, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		return nil, err
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, err
	}
	p := &Proxy{forward: &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // a watch is a response that never ends
		Rewrite:       func(request *httputil.ProxyRequest) { request.SetURL(target) },
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // as if nobody were between
		ErrorLog:      log.New(io.Discard, "", 0),
	}}
	p.Set()
	p.server = httptest.NewTLSServer(http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		(*p.handler.Load()).ServeHTTP(writer, request)
	}))
	p.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if p.Kubeconfig, err = through(p.server.URL, kubeconfig, cp.Dir); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Set replaces all faults. A request meets the first one first. What is under way goes on as it began.
func (p *Proxy) Set(faults ...Fault) {
	handler := behind(p.forward, faults)
	p.handler.Store(&handler)
}

// behind is a handler behind faults, the first of which a request meets first.
func behind(handler http.Handler, faults []Fault) http.Handler {
	for _, fault := range slices.Backward(faults) {
		handler = fault(handler)
	}
	return handler
}

// Cut ends all connections.
func (p *Proxy) Cut() { p.server.CloseClientConnections() }

// Close ends the proxy.
func (p *Proxy) Close() {
	p.Cut()
	p.server.Close()
}

// through is a user's kubeconfig with another server, which has a certificate of its own.
func through(server, kubeconfig, dir string) (path string, err error) {
	config, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		return "", err
	}
	for name := range config.Clusters {
		config.Clusters[name] = &clientcmdapi.Cluster{Server: server, InsecureSkipTLSVerify: true}
	}
	file, err := os.CreateTemp(dir, "*.kubeconfig")
	if err != nil {
		return "", fmt.Errorf("make a kubeconfig for a proxy: %w", err)
	}
	if err := file.Close(); err != nil {
		return "", err
	}
	return file.Name(), clientcmd.WriteToFile(*config, file.Name())
}
