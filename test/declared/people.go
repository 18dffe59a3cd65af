package declared

import (
	"net/netip"

	"pgregory.net/rapid"
)

// Sample is a world with somebody in it: who tries to reach whom, and where.
type Sample struct {
	World
	// Pods have an address of each family.
	Pods []Endpoint
	// Addresses are outside the cluster.
	Addresses   []Endpoint
	Connections []Connection
}

// DrawSample draws a world and a few pods and addresses.
func DrawSample(t *rapid.T) Sample {
	s := Sample{World: Draw(t), Connections: Connections()}
	s.Pods = append(Some(t, "own pods", OwnPods(), 2, 5), Some(t, "other pods", OtherPods(), 1, 3)...)
	s.Addresses = Some(t, "addresses", Addresses(), 1, 3)
	return s
}

// OwnPods are pods of a drawn application's namespace: of every tier, of several, of none.
func OwnPods() []Endpoint {
	http := []map[string]Connection{{"http": {"TCP", 8080}}, nil, {"http": {"UDP", 8080}}, {"http": {"TCP", 9999}}}
	var pods []Endpoint
	for i, set := range []map[string]string{
		{"tier": "a"},
		{"tier": "b"},
		{"tier": "c"},
		{"tier": "d"},
		{"tier": "a", "app": "shop"},
		{"tier": "b", "app": "shop", "canary": "true"},
		{"tier": "c", "app": "other", "canary": ""},
		{"app": "shop"},
		{"app": "stray"},
		{},
	} {
		pods = append(pods, Endpoint{
			Namespace: ownApp.Namespace, Labels: set, Address: netip.AddrFrom4([4]byte{10, 244, 0, byte(i)}), Names: http[i%len(http)],
		})
	}
	return pods
}

// OtherPods are pods of other namespaces, many of which look like those of the application.
func OtherPods() []Endpoint {
	pods := []Endpoint{
		{Namespace: "kube-system", Labels: map[string]string{"k8s-app": "kube-dns"}, Address: netip.MustParseAddr("10.244.9.1")},
		{Namespace: "kube-system", Labels: map[string]string{"k8s-app": "else"}, Address: netip.MustParseAddr("10.244.9.2")},
		{Namespace: "edge", Labels: map[string]string{"k8s-app": "kube-dns"}, Address: netip.MustParseAddr("10.244.9.3")},
		{Namespace: "monitoring", Address: netip.MustParseAddr("10.244.9.4")},
	}
	for i, namespace := range []string{"finance", "edge"} {
		for _, pod := range OwnPods() {
			address := pod.Address.As4()
			address[2] = byte(i + 1)
			pod.Namespace, pod.Address = namespace, netip.AddrFrom4(address)
			pods = append(pods, pod)
		}
	}
	return pods
}

// Addresses are outside the cluster, inside and outside what a drawn line names.
func Addresses() []Endpoint {
	var all []Endpoint
	for _, address := range []string{
		"203.0.113.5", "203.0.113.7", "203.0.113.200", "8.8.8.8", "192.168.1.1", "100.64.0.1", "10.0.0.1", "10.96.0.1",
		"2001:db8::1", "2001:db8:7::1", "2606:4700::1", "fd00::1",
	} {
		all = append(all, Endpoint{Address: netip.MustParseAddr(address)})
	}
	return all
}

// Connections are attempts on ports that drawn worlds declare, on their neighbours, and on none of them.
func Connections() []Connection {
	return []Connection{
		{"TCP", 80},
		{"UDP", 80},
		{"SCTP", 80},
		{"TCP", 443},
		{"UDP", 443},
		{"TCP", 53},
		{"UDP", 53},
		{"SCTP", 7},
		{"TCP", 7},
		{"TCP", 7999},
		{"TCP", 8000},
		{"TCP", 8010},
		{"TCP", 8011},
		{"TCP", 8080},
		{"UDP", 8080},
		{"TCP", 6443},
		{"TCP", 9999},
	}
}
