{{- /* Refuses values that render but cannot work, each with the way that does. What is merely misspelt the schema refuses. */}}

{{- define "ftps2sftp.validate" -}}
{{- $problems := list }}
{{- $values := .Values }}
{{- $passive := include "ftps2sftp.passive" . | fromYaml }}
{{- $listeners := include "ftps2sftp.listeners" . | fromYamlArray }}

{{- if and (eq $values.mode "single") (gt (int $values.replicas) 1) }}
{{- $problems = append $problems (printf "replicas: %d gateways behind one Service cannot work: a client's data connection reaches another gateway than its control connection, whatever the session affinity. Set `mode: perPod`, which makes a Service for each pod, or `replicas: 1`." (int $values.replicas)) }}
{{- end }}
{{- if $values.service.sessionAffinity }}
{{- $problems = append $problems "service.sessionAffinity: it holds for each port of a Service by itself, so it does not bring a client's data connection to the gateway of its control connection. Set `mode: perPod` for several gateways; one needs no affinity." }}
{{- end }}
{{- if and (eq $values.mode "perPod") (eq $values.service.type "NodePort") (gt (int $values.replicas) 1) }}
{{- $problems = append $problems "service.type: NodePort with `mode: perPod` wants the same ports of every node for each pod. Set `service.type: LoadBalancer`, or `mode: hostNetwork`." }}
{{- end }}
{{- if and (eq $values.mode "hostNetwork") (ne $values.service.type "ClusterIP") }}
{{- $problems = append $problems (printf "service.type: %s has no effect with `mode: hostNetwork`, where clients dial the nodes and there is no Service. Leave it out, or set `mode: single`." $values.service.type) }}
{{- end }}
{{- if and $values.perPod.hostname (ne $values.mode "perPod") }}
{{- $problems = append $problems (printf "perPod.hostname: has no effect with `mode: %s`. Set `passive.address` to the name that clients dial, or `mode: perPod`." $values.mode) }}
{{- end }}
{{- if and $values.perPod.hostname (ne $values.passive.address "auto") }}
{{- $problems = append $problems "passive.address: each pod announces its own `perPod.hostname`. Leave one of the two out." }}
{{- end }}
{{- if and $values.perPod.hostname (not (contains "POD" $values.perPod.hostname)) }}
{{- $problems = append $problems "perPod.hostname: every pod would have the same name. Put POD where the pod's name belongs, such as POD.ftps.example.com." }}
{{- end }}
{{- $isOwn := not $values.existingConfigMap }}
{{- if and $isOwn (ne $values.service.type "ClusterIP") (eq $values.passive.address "auto") (not $values.passive.overrides) (not $values.perPod.hostname) (ne $values.mode "hostNetwork") }}
{{- $problems = append $problems (printf "passive.address: with `service.type: %s` a gateway sees the pod's address, not the one that clients dial, and `auto` would announce it to them. Set the address or DNS name under which clients reach it%s." $values.service.type (ternary ", or `perPod.hostname`" "" (eq $values.mode "perPod"))) }}
{{- end }}

{{- if gt (int $passive.first) (int $passive.last) }}
{{- $problems = append $problems (printf "passive.ports: %s ends before it begins. Write the lower port first." $values.passive.ports) }}
{{- else if gt (sub (int $passive.last) (int $passive.first)) 999 }}
{{- $problems = append $problems (printf "passive.ports: %s are more than a thousand, and a Service lists each one. With `passive.shared: true` some dozens serve thousands of clients." $values.passive.ports) }}
{{- end }}
{{- if or (lt (int $passive.first) 1024) (gt (int $passive.last) 65535) }}
{{- $problems = append $problems (printf "passive.ports: %s must lie between 1024 and 65535." $values.passive.ports) }}
{{- end }}
{{- if not $listeners }}
{{- $problems = append $problems "listeners: none is on, so nobody can connect. Set `listeners.explicit.enabled: true`." }}
{{- end }}
{{- range concat $listeners (list (dict "name" "metrics" "port" $values.metrics.port)) }}
{{- if and (ge (int .port) (int $passive.first)) (le (int .port) (int $passive.last)) }}
{{- $problems = append $problems (printf "passive.ports: port %d is that of `%s`. Choose a range without it." (int .port) .name) }}
{{- end }}
{{- end }}
{{- $isHost := eq $values.mode "hostNetwork" }}
{{- $low := false }}
{{- range $listeners }}
{{- if lt (int .port) 1024 }}
{{- $low = true }}
{{- if $isHost }}
{{- $problems = append $problems (printf "listeners.%s.port: %d is below 1024, and on a node's own network nobody but root listens there. Choose a port from 1024 on." .name (int .port)) }}
{{- else if not $values.lowPorts }}
{{- $problems = append $problems (printf "listeners.%s.port: %d is below 1024, and the container has no capabilities. Clients dial `servicePort`, so choose a port from 1024 on; or set `lowPorts: true` if they dial pods." .name (int .port)) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $values.lowPorts $isHost }}
{{- $problems = append $problems "lowPorts: with `mode: hostNetwork` the network is the node's, whose settings no pod changes. Leave it out." }}
{{- else if and $values.lowPorts (not $low) }}
{{- $problems = append $problems "lowPorts: no listener has a port below 1024. Set `listeners.explicit.port: 21`, or leave it out." }}
{{- end }}
{{- if $values.lowPorts }}
{{- range $values.podSecurityContext.sysctls }}
{{- if eq .name "net.ipv4.ip_unprivileged_port_start" }}
{{- $problems = append $problems "podSecurityContext.sysctls: `lowPorts` sets net.ipv4.ip_unprivileged_port_start. Leave one of the two out." }}
{{- end }}
{{- end }}
{{- end }}
{{- $taken := dict }}
{{- range concat $listeners (list (dict "name" "metrics" "port" $values.metrics.port)) }}
{{- $key := printf "%d" (int .port) }}
{{- if hasKey $taken $key }}
{{- $problems = append $problems (printf "port %s is wanted by `%s` and by `%s`. Choose another for one of them." $key (get $taken $key) .name) }}
{{- end }}
{{- $_ := set $taken $key .name }}
{{- end }}
{{- if and (eq $values.service.type "NodePort") (or (lt (int $passive.first) 30000) (gt (int $passive.last) 32767)) }}
{{- $problems = append $problems (printf "passive.ports: a node opens the ports that are announced, and a cluster gives out those between 30000 and 32767 only, not %s." $values.passive.ports) }}
{{- end }}
{{- $ports := add (len $listeners) (sub (int $passive.last) (int $passive.first)) 1 }}
{{- if and (eq $values.service.type "LoadBalancer") (gt (int $ports) 50) (not $values.passive.manyPorts) }}
{{- $problems = append $problems (printf "passive.ports: %d ports are more than many load balancers take (50). Narrow the range, or set `passive.manyPorts: true` if yours takes them." (int $ports)) }}
{{- end }}

{{- if and $values.tls.existingSecret $values.tls.certManager.enabled }}
{{- $problems = append $problems "tls: either `existingSecret` or `certManager.enabled`, not both." }}
{{- else if not (or $values.tls.existingSecret $values.tls.certManager.enabled) }}
{{- $problems = append $problems "tls: there is no FTPS without a certificate. Set `tls.existingSecret` to a Secret of type kubernetes.io/tls, or turn on `tls.certManager`." }}
{{- end }}
{{- if and $values.tls.certManager.enabled (not (and $values.tls.certManager.issuerRef.name $values.tls.certManager.dnsNames)) }}
{{- $problems = append $problems "tls.certManager: needs `issuerRef.name` and at least one of `dnsNames`, the names that clients dial." }}
{{- end }}
{{- if and (ne $values.tls.clientCertificates "off") (not $values.tls.clientCaSecret) }}
{{- $problems = append $problems "tls.clientCaSecret: nothing says whose client certificates count. Name a Secret that has ca.crt." }}
{{- end }}
{{- if and (or (ne $values.proxyProtocol.control "off") (ne $values.proxyProtocol.data "off")) (not $values.proxyProtocol.trusted) }}
{{- $problems = append $problems "proxyProtocol.trusted: nobody's PROXY header is believed. List the networks of your load balancer." }}
{{- end }}

{{- range $key := list "listeners" "passive" "shutdown" "trusted_proxies" }}
{{- if hasKey $values.config $key }}
{{- $problems = append $problems (printf "config.%s: the chart writes this part, so that ports agree everywhere. Use the value `%s`." $key (ternary "proxyProtocol.trusted" $key (eq $key "trusted_proxies"))) }}
{{- end }}
{{- end }}
{{- if dig "admin" "address" "" $values.config }}
{{- $problems = append $problems "config.admin.address: the probes and monitors must find it. Use the value `metrics.port`." }}
{{- end }}
{{- range $key := list "certificates" "client_certificates" "client_ca" "client_crl" }}
{{- if hasKey ($values.config.tls | default dict) $key }}
{{- $problems = append $problems (printf "config.tls.%s: the chart mounts the files. Use the value `tls`." $key) }}
{{- end }}
{{- end }}
{{- if $isOwn }}
{{- if not $values.config.backends }}
{{- $problems = append $problems "config.backends: says where files are; without one there is nothing to do. Such as {warehouse: {address: \"sftp.internal:22\"}}." }}
{{- end }}
{{- if not $values.config.users }}
{{- $problems = append $problems "config.users: says who may log in; nobody could. Such as {\"*\": {backend: warehouse, login: passthrough}}." }}
{{- end }}
{{- range $name, $backend := $values.config.backends }}
{{- if not (or $backend.known_hosts $backend.host_keys $values.knownHosts) }}
{{- $problems = append $problems (printf "config.backends.%s: its host key is unknown, and no setting accepts any. Put what `ssh-keyscan` says, compared with the server's owner, into `knownHosts`, or fingerprints into its `host_keys`." $name) }}
{{- end }}
{{- end }}
{{- else }}
{{- range $key := list "config" "knownHosts" }}
{{- if index $values $key }}
{{- $problems = append $problems (printf "%s: has no effect with `existingConfigMap`, which has the whole configuration. Put it into that ConfigMap, or leave `existingConfigMap` out." $key) }}
{{- end }}
{{- end }}
{{- $written := dict "passive.address" (ne $values.passive.address "auto") "passive.overrides" $values.passive.overrides "passive.shared" (not $values.passive.shared) "proxyProtocol.control" (ne $values.proxyProtocol.control "off") "proxyProtocol.data" (ne $values.proxyProtocol.data "off") "proxyProtocol.trusted" $values.proxyProtocol.trusted }}
{{- range $key := keys $written | sortAlpha }}
{{- if get $written $key }}
{{- $problems = append $problems (printf "%s: has no effect with `existingConfigMap`, where the configuration says it. Leave it out here." $key) }}
{{- end }}
{{- end }}
{{- end }}

{{- $memory := include "ftps2sftp.bytes" (get (($values.resources | default dict).limits | default dict) "memory") | int64 }}
{{- if and $isOwn $memory }}
{{- $wanted := dig "limits" "sessions" 1 $values.config | int64 }}
{{- $needed := add 67108864 (mul 131072 $wanted) }}
{{- if gt $needed $memory }}
{{- $problems = append $problems (printf "resources.limits.memory: %v has no room for `config.limits.sessions: %d`, which take %d MiB before the first transfer. Raise it, or lower `config.limits.sessions`." $values.resources.limits.memory $wanted (div $needed 1048576)) }}
{{- end }}
{{- end }}

{{- $grace := add (int $values.shutdown.delaySeconds) (int $values.shutdown.drainSeconds) 40 }}
{{- if $values.terminationGracePeriodSeconds }}
{{- if lt (int $values.terminationGracePeriodSeconds) (int $grace) }}
{{- $problems = append $problems (printf "terminationGracePeriodSeconds: %d is less than `shutdown` needs (%d), so transfers would be killed. Leave it out, or lower `shutdown.drainSeconds`." (int $values.terminationGracePeriodSeconds) (int $grace)) }}
{{- end }}
{{- end }}
{{- if and $isOwn (ne $values.service.externalTrafficPolicy "Local") (ne $values.service.type "ClusterIP") (dig "policy" "data_peer_check" true $values.config) }}
{{- $problems = append $problems "service.externalTrafficPolicy: Cluster hides clients' addresses, so a data connection seems to come from elsewhere than its control connection. Set it to Local, or `config.policy.data_peer_check: false` (then with `data_tls_resumption: require`)." }}
{{- end }}

{{- if and $values.metrics.exposeOnNodes (not $isHost) }}
{{- $problems = append $problems (printf "metrics.exposeOnNodes: has no effect with `mode: %s`, where `networkPolicy` says who reaches the port. Leave it out." $values.mode) }}
{{- end }}
{{- if ne (empty $values.test.url) (empty $values.test.existingSecret) }}
{{- $problems = append $problems "test: to log in takes both, `url`, such as ftp://user@ftps.example.com/directory, and `existingSecret`, which has the password. Set both, or neither." }}
{{- end }}
{{- if and $values.test.existingSecret (eq $values.tls.clientCertificates "required") }}
{{- $problems = append $problems "test: the client of `helm test` has no certificate to show, and `tls.clientCertificates: required` asks for one. Leave it out." }}
{{- end }}
{{- $monitors := or $values.metrics.podMonitor.enabled $values.metrics.serviceMonitor.enabled }}
{{- if and $values.metrics.podMonitor.enabled $values.metrics.serviceMonitor.enabled }}
{{- $problems = append $problems "metrics: with `podMonitor` and `serviceMonitor` everything is scraped twice, and sums are twice what they are. Turn one of them off." }}
{{- end }}
{{- if and $monitors $isHost (not $values.metrics.exposeOnNodes) }}
{{- $problems = append $problems "metrics.exposeOnNodes: on a node's own network the metrics are on the loopback, where Prometheus does not reach them. Set it to true, and let nobody else reach the port: it also shows users, addresses and paths." }}
{{- end }}
{{- with $values.metrics.prometheusRule }}
{{- if and .enabled (not $monitors) }}
{{- $problems = append $problems "metrics.prometheusRule: nothing tells Prometheus of the gateway, so Ftps2sftpAbsent would fire and no other alert ever could. Set `metrics.podMonitor.enabled: true`." }}
{{- end }}
{{- if and .enabled (not .runbook) }}
{{- $problems = append $problems "metrics.prometheusRule.runbook: alerts would lead nowhere. Set the address at which you publish deploy/runbook.md, such as https://wiki.example.com/ftps2sftp." }}
{{- end }}
{{- $alerts := list }}
{{- range ($.Files.Get "files/rules.yaml" | fromYaml).groups }}
{{- range .rules }}
{{- $alerts = append $alerts .alert }}
{{- end }}
{{- end }}
{{- range .disabled }}
{{- if not (has . $alerts) }}
{{- $problems = append $problems (printf "metrics.prometheusRule.disabled: there is no alert %s. The names are those of deploy/prometheus/rules.yaml." .) }}
{{- end }}
{{- end }}
{{- end }}

{{- if $problems }}
{{- fail (printf "\n\nftps2sftp: these values cannot work:\n  - %s\n" (join "\n  - " $problems)) }}
{{- end }}
{{- end }}
